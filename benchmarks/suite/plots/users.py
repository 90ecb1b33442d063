"""What users get for what GPUs make: tokens/s of a user against those of a GPU, and goodput under limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from benchmarks.suite.figures import Limits, goodput, rate, tokens_per_s_a_gpu, tokens_per_s_a_user
from benchmarks.suite.plots.select import Group, best, number, series_of, whole
from benchmarks.suite.plots.style import LAYERS, LINE, SMALL, canvas, colour, legend, title, way_words
from benchmarks.suite.result import Results, Run


def choose_pareto(group: Group) -> list[Run]:
    """Bursts, or else constant gaps; and chat mixes. Not those without reorder, which lie on those with it."""
    runs = [run for run in group.runs if run.way != "none"]
    constant = [run for run in runs if run.kind == "constant"]
    bursts = [run for run in constant if not number(run, "paper_gap_ms")]
    return best(whole([*(bursts or constant), *(run for run in runs if run.kind == "chat")]))


def draw_pareto(results: Results, group: Group, runs: Sequence[Run]) -> Figure:
    """A point for each load, a line for each way and layer; right and up is better."""
    panels = [
        (words, [run for run in runs if (run.kind == "chat") == chat], fact)
        for words, chat, fact in (
            ("bursts, marked with their requests", False, "num_requests"),
            ("chat mix, marked with requests/s", True, "rate"),
        )
    ]
    shown = [panel for panel in panels if panel[1]]
    device = "a GPU" if results.machine.get("gpu") else "the machine"
    what = title(f"Tokens/s of a user against tokens/s of {device}", group.model, "", results)
    figure = canvas(what, 7.4 * len(shown) if len(shown) > 1 else 9.0, 6.2)
    for place, (words, of_panel, fact) in enumerate(shown):
        axes = figure.add_subplot(1, len(shown), place + 1)
        marks: list[tuple[str, float, float, str]] = []
        for way, layer in series_of(of_panel):
            points = sorted(
                (r for r in of_panel if (r.way, r.layer) == (way, layer)), key=lambda r: number(r, fact) or 0
            )
            xs, ys = [tokens_per_s_a_user(r) for r in points], [tokens_per_s_a_gpu(r, results) for r in points]
            axes.plot(xs, ys, label=_label(way, layer), **_look(way, layer))
            marks += [(f"{number(r, fact) or 0:g}", x, y, way) for r, x, y in zip(points, xs, ys, strict=True)]
        apart = any(run.kind != "chat" and number(run, "paper_gap_ms") for run in of_panel)
        axes.set_title("constant gaps, marked with their requests" if apart else words)
        axes.set_xlabel("tokens/s of a user (median, waiting included)")
        axes.set_ylabel(f"tokens/s of {device}")
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


def choose_goodput(group: Group) -> list[Run]:
    """Chat mixes."""
    return [run for run in group.runs if run.kind == "chat" and run.requests]


def draw_goodput(results: Results, group: Group, runs: Sequence[Run], limits: Limits) -> Figure:
    """By rate: the share of requests within limits, and how many a second that is. A way gets its best setting."""
    within = f"first token within {limits.first_token_s * 1e3:g} ms, 99 % of gaps within {limits.gap_ms:g} ms"
    figure = canvas(title(f"Goodput: {within}", group.model, "chat mix", results), 12.0, 5.4)
    left, right = figure.subplots(1, 2)
    for way, layer in series_of(runs):
        best_at: dict[float, Any] = {}
        for run in runs:
            if (run.way, run.layer) == (way, layer):
                found = goodput(run, limits)
                best_at[rate(run)] = max(best_at.get(rate(run), found), found, key=lambda good: good.share)
        rates = sorted(best_at)
        look = _look(way, layer)
        left.plot(rates, [best_at[r].share * 100 for r in rates], label=_label(way, layer), **look)
        right.plot(rates, [best_at[r].requests_per_s for r in rates], label=_label(way, layer), **look)
    most = max(rate(run) for run in runs)
    right.plot([0, most], [0, most], color=LINE, linewidth=1, linestyle="--", label="all that come")
    left.set_ylabel("requests within limits, %")
    left.set_ylim(-4, 106)
    right.set_ylabel("requests/s within limits")
    right.set_ylim(-0.04 * most, most * 1.06)
    for axes in (left, right):
        axes.set_xlabel("requests/s that come (Poisson)")
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


def _look(way: str, layer: str) -> dict[str, Any]:
    _, line, marker = LAYERS.get(layer, ("", "-", "o"))
    return {"linestyle": line, "marker": marker, "color": colour(way), "linewidth": 1.8, "markersize": 7,
            "markeredgecolor": "white"}  # fmt: skip
