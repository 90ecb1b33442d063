"""Results as PNG plots in the style of the papers' figures.

Each plot comes from the runs alone, so that it can be drawn again from `results.json`. One that has no runs is left
out, and `left_out` says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.suite.figures import Limits
from benchmarks.suite.plots import select, steps, style, times, users
from benchmarks.suite.result import Results, Run

Painter = Callable[[Results, select.Group, Sequence[Run]], Figure]


@dataclass(frozen=True)
class Plot:
    """One kind of picture: one file for each group of runs that holds what it needs."""

    name: str
    """Of its file."""
    needs: str
    """In words, after "needs"."""
    groups: Callable[[Iterable[Run]], list[select.Group]]
    choose: Callable[[select.Group], list[Run]]
    """The runs it shows; none: it is left out."""
    paint: Painter


def plots(limits: Limits) -> tuple[Plot, ...]:
    """All kinds, in the order of a report."""
    return (
        Plot("overall-time", "runs with constant gaps or bursts", select.by_layer, times.choose_overall,
             times.draw_overall),
        Plot("poisson", "runs with Poisson arrivals", select.by_layer, times.choose_poisson, times.draw_poisson),
        Plot("reorder-gain", "runs with random totals, both fused and none", select.by_layer, times.choose_reorder,
             times.draw_reorder),
        Plot("rows", "engine runs that batch, with iterations", select.by_engine, steps.choose_rows, steps.draw_rows),
        Plot("step-time", "engine runs with iterations", select.by_engine, steps.choose_steps, steps.draw_steps),
        Plot("pareto", "bursts, constant gaps or a chat mix", select.by_model, users.choose_pareto,
             users.draw_pareto),
        Plot("goodput", "a chat mix", select.by_model, users.choose_goodput,
             partial(users.draw_goodput, limits=limits)),
    )  # fmt: skip


def draw(results: Results, folder: Path, limits: Limits = Limits()) -> list[Path]:  # noqa: B008 (it is frozen)
    """Write every plot that has runs into `folder`, which is made if need be. Returns the files in order.

    A file's name is the plot's, with its layer unless that is the engine, and its model where there are several.
    """
    folder.mkdir(parents=True, exist_ok=True)
    several = len({run.model for run in results.runs}) > 1
    written = []
    with style.style():
        for plot in plots(limits):
            for group, runs in _shown(plot, results):
                figure = plot.paint(results, group, runs)
                path = folder / f"{_file_name(plot, group, several)}.png"
                figure.savefig(path, dpi=style.DPI)
                written.append(path)
    return written


def left_out(results: Results) -> list[str]:
    """A sentence for each kind of plot that `draw` does not write."""
    return [
        f"{plot.name}: left out, for it needs {plot.needs} (in which no request failed)"
        for plot in plots(Limits())
        if not _shown(plot, results)
    ]


def _shown(plot: Plot, results: Results) -> list[tuple[select.Group, list[Run]]]:
    groups = ((group, plot.choose(group)) for group in plot.groups(results.runs))
    return [(group, runs) for group, runs in groups if runs]


def _file_name(plot: Plot, group: select.Group, several_models: bool) -> str:
    parts = [plot.name]
    if group.layer not in ("", "engine"):
        parts.append(group.layer.replace("_", "-"))
    if several_models:
        parts.append(re.sub(r"[^a-z0-9.]+", "-", group.model.rstrip("/").split("/")[-1].lower()).strip("-"))
    return "-".join(parts)
