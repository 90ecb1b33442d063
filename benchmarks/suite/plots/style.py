"""What all plots share: colours and words of ways and layers, a figure with its title, groups of bars with lines.

Knows matplotlib and no quantity. Colours are those of Okabe and Ito, told apart by colour-blind readers and in print.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib import patheffects
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

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
NOT_RUN = "not run"
"""In the place of a bar."""
SMALL = 9
DPI = 130
_CROWDED = 36
"""Places of bars beyond which their values do not fit side by side."""
_GROUP = 0.82
"""Share of a group's place that its bars fill."""
_LINES_FROM, _LINES_GAP, _LINES_TO = 0.66, 0.07, 0.93
"""Shares of the height: bars end below the first; lines lie above it, with room for what is written at them."""

_LEGEND_MARK, _LEGEND_LETTER = 0.75, 0.075
"""Inches."""


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
    """Bars side by side, one group a label, values written above them, or that there is none; the upper part is left to
    lines."""
    width = _GROUP / max(len(series), 1)
    upright = 90 if len(groups) * (len(series) + 1) > _CROWDED else 0
    for place, one in enumerate(series):
        offset = (place - (len(series) - 1) / 2) * width
        shown = [(group + offset, value) for group, value in enumerate(one.values) if value is not None]
        drawn = axes.bar(
            [x for x, _ in shown], [value for _, value in shown], width * 0.94, color=one.colour, label=one.label
        )
        axes.bar_label(drawn, [digits(value) for _, value in shown], padding=2, fontsize=SMALL, rotation=upright)
        for group, value in enumerate(one.values):
            if value is None:
                axes.annotate(
                    NOT_RUN, (group + offset, 0), (0, 3), textcoords="offset points", rotation=90, ha="center",
                    va="bottom", fontsize=SMALL - 1, color=one.colour,
                )  # fmt: skip
    most = max((value for one in series for value in one.values if value is not None), default=1.0)
    axes.set_ylim(0, most / _LINES_FROM * (1.22 if upright else 1.12))
    axes.set_yticks([tick for tick in MaxNLocator(6).tick_values(0, most) if 0 <= tick <= most * 1.05])
    axes.set_xticks(range(len(groups)), groups)
    axes.set_xlim(-0.6, len(groups) - 0.4)
    axes.set_axisbelow(True)
    axes.grid(axis="y", alpha=0.3)


def lines_over(axes: Any, name: str, series: Sequence[Series], least: float = 0.0, most: float | None = None) -> None:
    """Lines on a second axis above the bars, one point a group; of two the first is written above, the other below."""
    second = axes.twinx()
    for place, one in enumerate(series):
        shown = [(group, value) for group, value in enumerate(one.values) if value is not None]
        second.plot(
            range(len(one.values)), unbroken(one.values), one.line, marker=one.marker, color=one.colour,
            label=one.label, markeredgecolor="white", markersize=8, linewidth=2,
        )  # fmt: skip
        for x, y in shown:
            mark = second.annotate(
                one.words.format(y), (x, y), (0, -8 if place else 8), textcoords="offset points", ha="center",
                va="top" if place else "bottom", fontsize=SMALL + 1, color=one.colour, fontweight="bold",
            )  # fmt: skip
            mark.set_path_effects([patheffects.withStroke(linewidth=3, foreground="white")])
    if most is None:
        most = max((value for one in series for value in one.values if value is not None), default=1.0)
    height = (most - least) / (_LINES_TO - _LINES_FROM - _LINES_GAP)
    bottom = least - height * (_LINES_FROM + _LINES_GAP)
    second.set_ylim(bottom, bottom + height)
    second.set_yticks(
        [tick for tick in MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(least, most) if least <= tick <= most * 1.001]
    )
    second.set_ylabel(name, loc="top")
    second.spines["right"].set_visible(True)


def unbroken(values: Sequence[float | None]) -> list[float]:
    """For a line that ends before what was not run, and begins again behind it."""
    return [math.nan if value is None else value for value in values]


def digits(value: float) -> str:
    """Three that matter, of a part of one two: bars are narrow."""
    return f"{value:.0f}" if value >= 99.95 else f"{value:#.3g}" if value >= 1 else f"{value:#.2g}"


def legend(figure: Figure) -> None:
    """Of all axes, each label once, below the figure where it hides nothing, in as many columns as fit."""
    found: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if not found:
        return
    column = _LEGEND_MARK + _LEGEND_LETTER * max(len(label) for label in found)
    columns = max(1, min(len(found), int(figure.get_figwidth() / column)))
    figure.legend(
        list(found.values()), list(found), loc="outside lower center", ncols=columns, frameon=False, handlelength=2.6
    )
