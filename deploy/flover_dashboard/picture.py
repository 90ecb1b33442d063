"""Draws a dashboard's JSON as Grafana lays it out: each panel from the answers to its own queries.

Knows the grid, the kinds of panels and the units that the dashboard uses; not what they mean, nor where data is from.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import FuncFormatter, MaxNLocator

COLUMNS = 24
UNIT_IN = (0.68, 0.36)
"""Width of a column and height of a row of the grid, in inches."""
GAP_IN = 0.08
DPI = 100
BACKGROUND, PANEL, EDGE, TEXT, FAINT, GRID = "#111217", "#181b1f", "#2a2d33", "#ccccdc", "#8e9099", "#2c2f35"
ALARM = "#f2495c"
COLORS = ("#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#8ab8ff")
"""Grafana's classic palette, in its order."""


@dataclass(frozen=True)
class Series:
    """One line: labels as Prometheus gives them, seconds from the start, values (NaN where there is none)."""

    labels: dict[str, str]
    times: list[float]
    values: list[float]


Ask = Callable[[str], Sequence[Series]]


def draw(path: Path, dashboard: dict[str, Any], ask: Ask) -> None:
    """Write a PNG. `ask(expression)` answers a query as it stands in the dashboard, variables included."""
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"])
    figure = Figure(figsize=(COLUMNS * UNIT_IN[0], rows * UNIT_IN[1]), facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    marked = [series for one in dashboard["annotations"]["list"] for series in ask(one["expr"])]
    for panel in dashboard["panels"]:
        frame = _Frame(figure, panel, rows)
        if panel["type"] == "row":
            frame.title(panel["title"], weight="bold")
            continue
        frame.border()
        frame.title(panel["title"])
        lines = [(_legend(target, series), series) for target in panel["targets"] for series in ask(target["expr"])]
        if panel["type"] == "stat":
            _draw_stat(frame, panel, lines)
        else:
            _draw_lines(frame, panel, lines, marked)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI, facecolor=BACKGROUND)


class _Frame:
    """A panel's place in the figure."""

    def __init__(self, figure: Figure, panel: dict[str, Any], rows: int) -> None:
        place, size = panel["gridPos"], figure.get_size_inches()
        self._figure = figure
        self._left, self._width = place["x"] * UNIT_IN[0] + GAP_IN / 2, place["w"] * UNIT_IN[0] - GAP_IN
        self._bottom = (rows - place["y"] - place["h"]) * UNIT_IN[1] + GAP_IN / 2
        self._height = place["h"] * UNIT_IN[1] - GAP_IN
        self._size = size

    def _share(self, x: float, y: float) -> tuple[float, float]:
        return x / self._size[0], y / self._size[1]

    def border(self) -> None:
        corner, size = self._share(self._left, self._bottom), self._share(self._width, self._height)
        box = FancyBboxPatch(
            corner,
            *size,
            "square,pad=0",
            facecolor=PANEL,
            edgecolor=EDGE,
            transform=self._figure.transFigure,
            zorder=-1,
        )
        self._figure.add_artist(box)

    def title(self, text: str, weight: str = "normal") -> None:
        place = self._share(self._left + 0.1, self._bottom + self._height - 0.09)
        self._figure.text(*place, text, color=TEXT, fontsize=10, weight=weight, va="top")

    def axes(self, left: float, bottom: float, right: float, top: float) -> Any:
        """Margins in inches."""
        corner = self._share(self._left + left, self._bottom + bottom)
        size = self._share(self._width - left - right, self._height - bottom - top)
        made = self._figure.add_axes((*corner, *size), facecolor="none")
        made.spines[:].set_visible(False)
        return made


def _legend(target: dict[str, Any], series: Series) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda found: series.labels.get(found[1], ""), target["legendFormat"])


def _draw_stat(frame: _Frame, panel: dict[str, Any], lines: list[tuple[str, Series]]) -> None:
    axes = frame.axes(0, 0, 0, 0.35)
    axes.axis("off")
    if not lines:
        return
    ((_, series),) = lines
    last = next((value for value in reversed(series.values) if not math.isnan(value)), math.nan)
    axes.fill_between(series.times, series.values, color=COLORS[0], alpha=0.25, linewidth=0)
    axes.set_ylim(0, 2.5 * max((value for value in series.values if not math.isnan(value)), default=1) or 1)
    axes.margins(x=0)
    text = formatted(last, panel["fieldConfig"]["defaults"]["unit"])
    axes.text(0.5, 0.6, text, transform=axes.transAxes, ha="center", va="center", fontsize=24, color=COLORS[0])


def _draw_lines(
    frame: _Frame, panel: dict[str, Any], lines: list[tuple[str, Series]], marked: Sequence[Series]
) -> None:
    axes = frame.axes(0.62, 0.58, 0.15, 0.4)
    unit = panel["fieldConfig"]["defaults"]["unit"]
    for number, (legend, series) in enumerate(lines):
        color = COLORS[number % len(COLORS)]
        axes.plot(series.times, series.values, color=color, linewidth=1.1, label=legend)
        axes.fill_between(series.times, series.values, color=color, alpha=0.1, linewidth=0)
    for series in marked:
        when = [at for at, value in zip(series.times, series.values, strict=True) if not math.isnan(value)]
        if when:
            axes.axvspan(when[0], when[-1], color=ALARM, alpha=0.07, linewidth=0)
            for edge in (when[0], when[-1]):
                axes.axvline(edge, color=ALARM, linewidth=0.7, linestyle="--")
    axes.margins(x=0)
    axes.set_ylim(bottom=0)
    if axes.get_ylim()[1] < 1e-9 or not any(value > 0 for _, series in lines for value in series.values):
        axes.set_ylim(0, 1)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: formatted(value, unit)))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{int(value) // 60}:{int(value) % 60:02d}"))
    axes.grid(color=GRID, linewidth=0.7)
    axes.tick_params(colors=FAINT, labelsize=8, length=0)
    if not lines:
        return
    columns = min(len(lines), 6)
    axes.legend(
        loc="upper left", bbox_to_anchor=(-0.12, -0.13), ncols=columns, fontsize=8, labelcolor=TEXT, frameon=False,
        handlelength=1, columnspacing=1.2, borderpad=0,
    )  # fmt: skip


def formatted(value: float, unit: str) -> str:
    """A value as Grafana writes it. Raises KeyError for a unit that is not known here."""
    if math.isnan(value):
        return "No data"
    return {"s": _seconds, "percentunit": _percent, "reqps": _requests, "short": _short}[unit](value)


def _seconds(value: float) -> str:
    if value >= 1 or value == 0:
        return f"{value:.3g} s"
    return f"{value * 1e3:.3g} ms" if value >= 1e-3 else f"{value * 1e6:.3g} µs"


def _percent(value: float) -> str:
    return f"{value * 100:.3g}%"


def _requests(value: float) -> str:
    return f"{value:.3g} req/s"


def _short(value: float) -> str:
    return f"{value / 1000:.3g} K" if abs(value) >= 1000 else f"{value:.3g}"
