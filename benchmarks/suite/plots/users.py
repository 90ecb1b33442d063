"""What users get for what GPUs make: tokens/s of a user against those of a GPU, and goodput under limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from benchmarks.suite.figures import Limits, goodput, rate, tokens_per_s_a_gpu, tokens_per_s_a_user
from benchmarks.suite.plots.select import Group, best, number, series_of, values, whole
from benchmarks.suite.plots.style import LAYERS, LINE, SMALL, canvas, colour, legend, title, unbroken, way_words
from benchmarks.suite.result import Results, Run

_PANEL_INCHES = 6.0
_MOST_TOLD = 5
"""Loads in the legend, of a kind."""


@dataclass(frozen=True)
class _Panel:
    """Runs of one kind of load; a line goes through its sizes as far as none is missing."""

    title: str
    short: str
    """Before the sizes, in the legend."""
    runs: list[Run]
    fact: str
    """That loads differ in."""


def choose_pareto(group: Group) -> list[Run]:
    """Bursts, constant gaps and chat mixes. Not those without reorder, which lie on those with it."""
    return best(whole(run for run in group.runs if run.way != "none" and run.kind in ("constant", "chat")))


def draw_pareto(results: Results, group: Group, runs: Sequence[Run]) -> Figure:
    """A point for each load, a line for each way and layer; right and up is better."""
    panels = _panels(runs)
    device = "a GPU" if results.machine.get("gpu") else "the machine"
    what = title(f"Tokens/s of a user against tokens/s of {device}", group.model, "", results)
    figure = canvas(what, max(9.0, _PANEL_INCHES * len(panels)), 6.2)
    for place, panel in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), place + 1)
        loads, marks = values(panel.runs, panel.fact), list[tuple[str, float, float, str]]()
        for way, layer in series_of(panel.runs):
            at = {number(r, panel.fact): r for r in panel.runs if (r.way, r.layer) == (way, layer)}
            points = [at.get(load) for load in loads]
            xs = [None if run is None else tokens_per_s_a_user(run) for run in points]
            ys = [None if run is None else tokens_per_s_a_gpu(run, results) for run in points]
            label = f"{_label(way, layer)}: {_sizes(panels, way, layer)}"
            axes.plot(unbroken(xs), unbroken(ys), label=label, **_look(way, layer, ring=way != "fused"))
            found = zip(loads, xs, ys, strict=True)
            marks += [(f"{load:g}", x, y, way) for load, x, y in found if x is not None and y is not None]
        axes.set_title(f"{panel.title}, marked with {'requests/s' if panel.fact == 'rate' else 'their requests'}")
        axes.set_xlabel("tokens/s of a user (median, waiting included)")
        axes.set_ylabel("" if place else f"tokens/s of {device}")
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.4g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.margins(y=0.12)
        axes.set_xlim(0, max(x for _, x, _, _ in marks) * 1.08)
        axes.grid(alpha=0.3)
        _write(axes, marks)
    legend(figure)
    return figure


def _panels(runs: Sequence[Run]) -> list[_Panel]:
    """One for each gap, and one for chat mixes."""
    constant, mixes = [run for run in runs if run.kind == "constant"], [run for run in runs if run.kind == "chat"]
    panels = []
    for gap in values(constant, "paper_gap_ms") or [0.0]:
        of_gap = [run for run in constant if (number(run, "paper_gap_ms") or 0.0) == gap]
        words = (f"one every {gap:g} ms of the paper", f"every {gap:g} ms") if gap else ("bursts", "at once")
        panels.append(_Panel(*words, of_gap, "num_requests"))
    panels.append(_Panel("chat mix", "chat", mixes, "rate"))
    return [panel for panel in panels if panel.runs]


def _sizes(panels: Sequence[_Panel], way: str, layer: str) -> str:
    """Which loads were run, of each panel."""
    told = []
    for panel in panels:
        loads = values((run for run in panel.runs if (run.way, run.layer) == (way, layer)), panel.fact)
        some = loads if len(loads) <= _MOST_TOLD else [*loads[:2], *loads[-1:]]
        if loads:
            unit = "/s" if panel.fact == "rate" else ""
            words = [f"{load:g}{unit}" for load in some]
            told.append(f"{panel.short} {', '.join(words if some is loads else [*words[:2], '...', words[-1]])}")
    return "; ".join(told)


def choose_goodput(group: Group) -> list[Run]:
    """Chat mixes."""
    return [run for run in group.runs if run.kind == "chat" and run.requests]


def draw_goodput(results: Results, group: Group, runs: Sequence[Run], limits: Limits) -> Figure:
    """By rate: the share of requests within limits, and how many a second that is. A way gets its best setting."""
    within = f"first token within {limits.first_token_s * 1e3:g} ms, 99 % of gaps within {limits.gap_ms:g} ms"
    figure = canvas(title(f"Goodput: {within}", group.model, "chat mix", results), 12.0, 5.4)
    left, right = figure.subplots(1, 2)
    rates = sorted({rate(run) for run in runs})
    for way, layer in series_of(runs):
        best_at: dict[float, Any] = {}
        for run in runs:
            if (run.way, run.layer) == (way, layer):
                found = goodput(run, limits)
                best_at[rate(run)] = max(best_at.get(rate(run), found), found, key=lambda good: good.share)
        look, by_rate = _look(way, layer), [best_at.get(at) for at in rates]
        shares = unbroken([None if good is None else good.share * 100 for good in by_rate])
        left.plot(rates, shares, label=_label(way, layer), **look)
        served = unbroken([None if good is None else good.requests_per_s for good in by_rate])
        right.plot(rates, served, label=_label(way, layer), **look)
    most = rates[-1]
    right.plot([0, most], [0, most], color=LINE, linewidth=1, linestyle="--", label="all that come")
    left.set_ylabel("requests within limits, %")
    left.set_ylim(-4, 106)
    right.set_ylabel("requests/s within limits")
    right.set_ylim(-0.04 * most, most * 1.06)
    for axes in (left, right):
        axes.set_xlabel("requests/s that come (Poisson, as drawn)")
        axes.set_xlim(0, most * 1.06)
        axes.grid(alpha=0.3)
    legend(figure)
    return figure


def _write(axes: Any, marks: Sequence[tuple[str, float, float, str]]) -> None:
    """(words, x, y, way) beside points, but not where a mark stands already: those of another layer, or of overload."""
    taken: list[tuple[float, float]] = []
    for words, x, y, way in reversed(marks):
        right, up = axes.transAxes.inverted().transform(axes.transData.transform((x, y)))
        if any(abs(right - other) < 0.04 and abs(up - height) < 0.045 for other, height in taken):
            continue
        taken.append((right, up))
        place = (4, -13) if way == "instances" else (6, 5)  # below, since that line lies close to one after another's
        axes.annotate(words, (x, y), place, textcoords="offset points", fontsize=SMALL, color=colour(way))


def _label(way: str, layer: str) -> str:
    words = LAYERS[layer][0] if layer in LAYERS else layer
    return way_words(way, layer) if layer.startswith("triton-") else f"{way_words(way)}, {words}"


def _look(way: str, layer: str, ring: bool = False) -> dict[str, Any]:
    """A ring shows what lies on the same place."""
    _, line, marker = LAYERS.get(layer, ("", "-", "o"))
    mark = (
        {"markersize": 10, "fillstyle": "none", "markeredgewidth": 1.6}
        if ring
        else {"markersize": 6, "markeredgecolor": "white"}
    )
    return {"linestyle": line, "marker": marker, "color": colour(way), "linewidth": 1.8, **mark}
