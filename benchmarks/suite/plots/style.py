"""What all plots share: colours and words of ways and layers, a figure with its title, groups of bars with lines.

Knows matplotlib and no quantity. Colours are those of Okabe and Ito, told apart by colour-blind readers and in print.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib import patheffects
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.suite.result import Results

WAYS = {
    "serial": ("one after another", "#8c8c8c"),
    "instances": ("instances, a request each", "#d55e00"),
    "dynamic": ("dynamic batching", "#e69f00"),
    "static": ("static batches", "#cc79a7"),
    "none": ("fused without reorder", "#56b4e9"),
    "fused": ("fused", "#0072b2"),
}
"""In the order of bars: words, colour."""
LAYERS = {
    "engine": ("bare engine", "-", "o"),
    "triton": ("through Triton", "--", "s"),
    "triton-instances": ("Triton's own", "--", "D"),
    "triton-dynamic": ("Triton's own", "--", "D"),
    "pytriton": ("through PyTriton", ":", "^"),
    "perf_analyzer": ("by perf_analyzer", "-.", "v"),
}
"""Words, line, marker."""
LINE = "#222222"
SMALL = 9
DPI = 130
_GROUP = 0.82
"""Share of a group's place that its bars fill."""


@dataclass(frozen=True)
class Series:
    """One value for each group of bars or point of a line; None where it was not run."""

    label: str
    colour: str
    values: Sequence[float | None]
    line: str = "-"
    marker: str = "o"
    words: str = "{:.3g}"
    """How a value is written beside its mark."""


def style() -> AbstractContextManager[None]:
    """To draw in."""
    return mpl.rc_context({"font.size": 11, "axes.titlesize": 11, "axes.spines.top": False, "legend.fontsize": 10})


def canvas(title: str, width: float, height: float) -> Figure:
    """An empty figure in inches."""
    figure = Figure(figsize=(width, height), layout="constrained", dpi=DPI)
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=12)
    return figure


def title(what: str, model: str, where: str, results: Results) -> str:
    """Two lines: what is shown; of which model and machine."""
    facts = results.machine
    device = facts.get("gpu") or f"CPU, {facts.get('cpus', '?')} cores"
    several = f"{results.num_gpus} x " if results.num_gpus > 1 else ""
    return f"{what}\n{', '.join(part for part in (model, where, several + str(device)) if part)}"


def way_words(way: str, layer: str = "") -> str:
    """For a legend; with the layer where it is given, and always for Triton's own batching."""
    words = WAYS[way][0] if way in WAYS else way
    own = layer in ("triton-instances", "triton-dynamic")
    return f"{words} ({LAYERS[layer][0] if layer in LAYERS else layer})" if own else words


def colour(way: str) -> str:
    """Of a way."""
    return WAYS[way][1] if way in WAYS else LINE


def order(way: str) -> int:
    """Place of a way among bars."""
    return list(WAYS).index(way) if way in WAYS else len(WAYS)


def bars(axes: Any, groups: Sequence[str], series: Sequence[Series]) -> None:
    """Bars side by side, one group a label, values written above them."""
    width = _GROUP / max(len(series), 1)
    for place, one in enumerate(series):
        offset = (place - (len(series) - 1) / 2) * width
        shown = [(group + offset, value) for group, value in enumerate(one.values) if value is not None]
        drawn = axes.bar(
            [x for x, _ in shown], [value for _, value in shown], width * 0.94, color=one.colour, label=one.label
        )
        axes.bar_label(drawn, [one.words.format(value) for _, value in shown], padding=2, fontsize=SMALL)
    axes.set_xticks(range(len(groups)), groups)
    axes.set_xlim(-0.6, len(groups) - 0.4)
    axes.set_axisbelow(True)
    axes.grid(axis="y", alpha=0.3)


def lines_over(axes: Any, name: str, series: Sequence[Series], most: float | None = None, least: float = 0.0) -> Any:
    """Lines on a second axis, one point a group, values written above; room is left for them over the bars."""
    second = axes.twinx()
    for one in series:
        shown = [(group, value) for group, value in enumerate(one.values) if value is not None]
        xs, ys = [x for x, _ in shown], [y for _, y in shown]
        second.plot(
            xs, ys, one.line, marker=one.marker, color=one.colour, label=one.label, markeredgecolor="white",
            markersize=8, linewidth=2,
        )  # fmt: skip
        for x, y in shown:
            mark = second.annotate(
                one.words.format(y), (x, y), (0, 9), textcoords="offset points", ha="center", fontsize=SMALL + 1,
                color=one.colour, fontweight="bold",
            )  # fmt: skip
            mark.set_path_effects([patheffects.withStroke(linewidth=3, foreground="white")])
    values = [value for one in series for value in one.values if value is not None]
    second.set_ylim(least, most if most is not None else max(values, default=1.0) * 1.18)
    second.set_ylabel(name)
    second.spines["right"].set_visible(True)
    return second


def legend(figure: Figure, columns: int = 4) -> None:
    """Of all axes, each label once, below the figure where it hides nothing."""
    found: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if found:
        figure.legend(
            list(found.values()), list(found), loc="outside lower center", ncols=min(columns, len(found)), frameon=False
        )
