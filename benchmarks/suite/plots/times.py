"""Bars of overall time by way: by number of requests, by Poisson mean, and by maximum length (Flover's section 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from benchmarks.suite.figures import overlap, speed_up
from benchmarks.suite.plots.select import Group, best, number, series_of, values, whole
from benchmarks.suite.plots.style import (
    LAYERS,
    LINE,
    Series,
    bars,
    canvas,
    colour,
    legend,
    lines_over,
    title,
    way_words,
)
from benchmarks.suite.result import Results, Run

_BASELINES = ("instances", "serial")
_BAR_INCHES = 0.42
_MOST_INCHES = 13.0
"""Of a panel: more bars get narrower ones, whose values stand upright."""


def choose_overall(group: Group) -> list[Run]:
    """Constant gaps, bursts among them."""
    return best(whole(run for run in group.runs if run.kind == "constant"))


def draw_overall(results: Results, group: Group, runs: Sequence[Run]) -> Figure:
    """A panel for each gap: bars by number of requests, and how many times as long the baselines take."""
    gaps = values(runs, "paper_gap_ms") or [0.0]
    panels = [[run for run in runs if (number(run, "paper_gap_ms") or 0.0) == gap] for gap in gaps]
    widths = [_width(panel, "num_requests") for panel in panels]
    what, beside = _title("Overall time by number of requests", results, group), sum(widths) < _MOST_INCHES
    if beside:
        figure = canvas(what, max(9.0, sum(widths) + 2), 5.4)
        grid = figure.add_gridspec(1, len(panels), width_ratios=widths)
    else:
        figure = canvas(what, max(9.0, *widths) + 1, 1.2 + 4.4 * len(panels))
        grid = figure.add_gridspec(len(panels), 1)
    for place, (gap, panel) in enumerate(zip(gaps, panels, strict=True)):
        axes = figure.add_subplot(grid[place])
        counts = values(panel, "num_requests")
        at = _table(panel, "num_requests")
        _bars(axes, panel, [f"{count:.0f}" for count in counts], counts, at)
        speed = _speed_ups(counts, at)
        if speed:
            lines_over(axes, "speed-up, times", speed)
        used = max(values(panel, "gap_ms"), default=0.0)  # a lone request has no gap
        scaled = f" ({used:.3g} ms here)" if used else ""
        axes.set_title(f"a request every {gap:g} ms of the paper{scaled}" if gap else "all at once")
        axes.set_xlabel("requests")
    legend(figure)
    return figure


def choose_poisson(group: Group) -> list[Run]:
    """Poisson arrivals, of the largest number of requests."""
    runs = [run for run in group.runs if run.kind == "poisson"]
    most = max(values(runs, "num_requests"), default=0.0)
    return best(whole(run for run in runs if number(run, "num_requests") == most))


def draw_poisson(results: Results, group: Group, runs: Sequence[Run]) -> Figure:
    """Bars by mean gap, the fused run's overlap, and below each mean how many times as long the baselines take."""
    gaps, at = values(runs, "paper_gap_ms"), _table(runs, "paper_gap_ms")
    count = number(runs[0], "num_requests") or len(runs[0].requests)
    what = f"Total time of {count:.0f} requests by mean Poisson gap"
    figure = canvas(_title(what, results, group), max(9.0, _width(runs, "paper_gap_ms") + 2), 5.6)
    axes = figure.add_subplot()
    speed = _speed_ups(gaps, at)
    ticks = []
    for place, gap in enumerate(gaps):
        times = [value for one in speed if (value := one.values[place]) is not None]
        ticks.append(f"{gap:g} ms\n" + "\n".join(f"{value:.1f}x" for value in times))
    _bars(axes, runs, ticks, gaps, at)
    fused = [at.get((_fused(runs), gap)) for gap in gaps]
    shares = [None if run is None else overlap(run) * 100 for run in fused]
    if any(share is not None for share in shares):
        mark = Series(f"overlap (fused in flight / {count:.0f})", LINE, shares, line="--", marker="s", words="{:.0f} %")
        lines_over(axes, "overlap, %", [mark], most=100)
    below = ", then over ".join(one.label.removeprefix("fused over ") for one in speed)
    scales = dict.fromkeys(f"{run.scale or results.scale:.3g}" for run in runs)
    factor = f", times {' or '.join(scales)} here" if list(scales) != ["1"] else ""
    axes.set_xlabel(f"mean gap in the paper{factor}" + (f"\nbelow it: fused over {below}" if below else ""))
    legend(figure)
    return figure


def choose_reorder(group: Group) -> list[Run]:
    """Random totals, fused with and without reorder: only lengths that both were run with."""
    runs = best(whole(run for run in group.runs if run.kind == "random-totals" and run.way in ("fused", "none")))
    both = [{number(run, "max_total") for run in runs if run.way == way} for way in ("fused", "none")]
    return [run for run in runs if number(run, "max_total") in both[0] & both[1]]


def draw_reorder(results: Results, group: Group, runs: Sequence[Run]) -> Figure:
    """Bars with and without reorder by maximum length, and the gain."""
    lengths, at = values(runs, "max_total"), _table(runs, "max_total")
    what = "What reordering rows gains, by maximum total length"
    figure = canvas(_title(what, results, group), max(9.0, _width(runs, "max_total") + 2), 5.2)
    axes = figure.add_subplot()
    _bars(axes, runs, [f"{length:.0f}" for length in lengths], lengths, at)
    gains = [_ratio(at.get((("fused", layer), length)), at.get((("none", layer), length)))
             for length in lengths for layer in [runs[0].layer]]  # fmt: skip
    known = [gain for gain in gains if gain is not None]
    mark = Series("gain (without / with reorder)", LINE, gains, line="--", marker="s", words="{:.3f}x")
    least, most = min([*known, 1.0]), max([*known, 1.0])
    lines_over(axes, "gain, times", [mark], least=least, most=max(most, least + 0.02))
    least_total = runs[0].facts.get("min_total")
    low = f"{least_total}" if least_total is not None else "the least"
    axes.set_xlabel(f"maximum total length, tokens (lengths uniform from {low} to it)")
    legend(figure)
    return figure


Way = tuple[str, str]
"""Way, layer."""
Table = dict[tuple[Way, float], Run]


def _table(runs: Sequence[Run], fact: str) -> Table:
    found: Table = {}
    for run in sorted(runs, key=lambda run: -run.wall_s):
        if (value := number(run, fact)) is not None:
            found[(run.way, run.layer), value] = run
    return found


def _bars(axes: Any, runs: Sequence[Run], ticks: Sequence[str], groups: Sequence[float], at: Table) -> None:
    made = []
    for way in series_of(runs):
        times = [run.wall_s if (run := at.get((way, group))) else None for group in groups]
        made.append(Series(way_words(*way), colour(way[0]), times))
    bars(axes, ticks, made)
    axes.set_ylabel("overall time, s", loc="bottom")


def _speed_ups(groups: Sequence[float], at: Table) -> list[Series]:
    """Of fused over each baseline that was run."""
    ways = dict.fromkeys(way for way, _ in at)
    ours = next((way for way in ways if way[0] == "fused"), None)
    found = []
    for name in _BASELINES:
        base = next((way for way in ways if way[0] == name), None)
        if ours and base:
            times = [_ratio(at.get((ours, group)), at.get((base, group))) for group in groups]
            line = "-" if name == _BASELINES[0] else "--"
            words = f"fused over {way_words(*base)}"
            found.append(Series(words, colour(name), times, line=line, words="{:.1f}x"))
    return [one for one in found if any(value is not None for value in one.values)]


def _fused(runs: Sequence[Run]) -> Way:
    return next(((run.way, run.layer) for run in runs if run.way == "fused"), ("fused", ""))


def _ratio(ours: Run | None, base: Run | None) -> float | None:
    return speed_up(ours, base) if ours and base else None


def _width(runs: Sequence[Run], fact: str) -> float:
    return min(_MOST_INCHES, max(3.2, _BAR_INCHES * len(values(runs, fact)) * (len(series_of(runs)) + 0.8)))


def _title(what: str, results: Results, group: Group) -> str:
    where = LAYERS[group.layer][0] if group.layer in LAYERS else group.layer
    return title(what, group.model, where, results)
