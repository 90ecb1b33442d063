"""What a bare engine does iteration by iteration: rows in flight, and the time of a step against its bound S."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, StrMethodFormatter

from benchmarks.suite.figures import StepTime, products_s, step_times
from benchmarks.suite.plots.select import Group, best, number, spread_out
from benchmarks.suite.plots.style import LINE, canvas, colour, legend, order, title, way_words
from benchmarks.suite.result import Results, Run

_BATCHING = ("dynamic", "static", "none", "fused")
"""Ways whose rows change: one after another is always one, instances have no iteration in common."""
_STREAMING = ("serial", "none", "fused")
_FACTS = {"constant": "paper_gap_ms", "poisson": "paper_gap_ms", "random-totals": "max_total", "chat": "rate"}
_MOST_PANELS = 4
"""Of a kind of workload."""
_COLUMNS = (3, 4, 2)
"""Of panels: the first of these that leaves the fewest places empty."""
_MARKERS = {"none": "x", "serial": "s"}
_LEAST_STEPS = 5
"""Fewer pairs of iterations at some number of rows give no time."""


def choose_rows(group: Group) -> list[Run]:
    """Of each kind of workload up to three, each with its most requests; in all ways that batch."""
    runs = best(run for run in group.runs if run.way in _BATCHING)
    chosen: list[Run] = []
    for kind, fact in _FACTS.items():
        largest: dict[float, Run] = {}
        for run in sorted((r for r in runs if r.kind == kind), key=lambda run: len(run.requests)):
            largest[number(run, fact) or 0.0] = run
        shown = {run.workload for run in spread_out(list(largest.values()), fact, _MOST_PANELS)}
        of_kind = [run for run in runs if run.kind == kind and run.workload in shown]
        chosen += sorted(of_kind, key=lambda run: number(run, fact) or 0.0)
    return chosen


def draw_rows(results: Results, group: Group, runs: Sequence[Run]) -> Figure:
    """A panel for each workload, a line for each way; without reorder the rows that a step computes, too."""
    workloads = list(dict.fromkeys(run.workload for run in runs))
    columns = min(len(workloads), min(_COLUMNS, key=lambda count: -len(workloads) % count))
    rows = -(-len(workloads) // columns)
    what = title("Rows in flight by iteration", group.model, "bare engine", results)
    figure = canvas(what, max(7.0, 4.0 * columns), 1.4 + 2.6 * rows)
    for place, workload in enumerate(workloads):
        axes = figure.add_subplot(rows, columns, place + 1)
        # `none` comes last: dashed, over the equal line of `fused`.
        for run in sorted(
            (r for r in runs if r.workload == workload), key=lambda run: (run.way == "none", order(run.way))
        ):
            _draw_levels(axes, run)
        axes.set_title(workload)
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.grid(alpha=0.3)
        if place % columns == 0:
            axes.set_ylabel("rows")
        if place + columns >= len(workloads):
            axes.set_xlabel("iteration")
    legend(figure)
    return figure


def _draw_levels(axes: Any, run: Run) -> None:
    """Live rows, and what lies between them and the rows of the step."""
    at = [index * run.iteration_stride for index in range(len(run.iterations) + 1)]
    at[-1] = at[-2] + 1
    levels, words = [*(level for _, level in run.iterations), 0], way_words(run.way)
    look: dict[str, Any] = {"color": colour(run.way), "drawstyle": "steps-post"}
    if run.way != "none":
        axes.plot(at, levels, label=words, linewidth=1.6, **look)
        return
    axes.plot(at, levels, label=f"{words}: live rows", linewidth=1.6, linestyle="--", **look)
    if run.widths:
        widths = [*run.widths, 0]
        axes.plot(at, widths, label=f"{words}: rows that a step computes", linewidth=1.0, **look)
        axes.fill_between(at, levels, widths, step="post", color=colour(run.way), alpha=0.25, linewidth=0,
                          label="computed for nothing, which reorder saves")  # fmt: skip


def choose_steps(group: Group) -> list[Run]:
    """Ways whose live KV is known at each iteration: not batches that answer at their end, and not instances."""
    return [run for run in group.runs if run.way in _STREAMING and len(run.iterations) > 1]


def draw_steps(results: Results, group: Group, runs: Sequence[Run]) -> Figure:
    """Median time of an iteration without prompts by rows, over S with as much live KV; below, their ratio."""
    what = title("Time of a decode iteration against its bound S", group.model, "bare engine", results)
    figure = canvas(what, 9.0, 7.0)
    upper, lower = figure.subplots(2, sharex=True, height_ratios=[2, 1])
    most = 1
    for way in sorted(dict.fromkeys(run.way for run in runs), key=order):
        steps = _merged([step for run in runs if run.way == way for step in step_times(run, results)])
        most = max([most, *(step.rows for step in steps)])
        look = {"linestyle": "none", "marker": _MARKERS.get(way, "o"), "color": colour(way), "markersize": 6}
        upper.plot([s.rows for s in steps], [s.seconds * 1e3 for s in steps], label=way_words(way), **look)
        known = [(s.rows, s.seconds * 1e3, s.bound * 1e3) for s in steps if s.bound]
        lower.plot([rows for rows, _, _ in known], [ms / bound for _, ms, bound in known], **look)
        if way == "fused":
            upper.plot([rows for rows, _, _ in known], [bound for _, _, bound in known], linestyle="none", marker="_",
                       color=LINE, markersize=9, markeredgewidth=1.6, label="S of the fused iterations")  # fmt: skip
    last = max((rows for rows in results.products_ms if rows <= 2 * most), default=0)
    products = [(rows, seconds * 1e3) for rows in range(1, last + 1) if (seconds := products_s(results, rows))]
    upper.plot([rows for rows, _ in products], [ms for _, ms in products], color=LINE, linewidth=1, linestyle=":",
               label="weight products alone")  # fmt: skip
    lower.axhline(1.0, color=LINE, linewidth=1, linestyle="--")
    upper.set_ylabel("time of an iteration, ms")
    upper.set_ylim(bottom=0)
    lower.set_ylabel("over S")
    lower.set_ylim(min(0.95, lower.get_ylim()[0]), max(1.15, lower.get_ylim()[1]))
    lower.set_xlabel("live rows\n(S: weight products at so many rows, and the live KV at copy bandwidth)")
    lower.set_xscale("log", base=2)
    lower.set_xlim(0.9, most * 1.1)
    lower.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
    lower.xaxis.set_minor_formatter(NullFormatter())
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
    legend(figure)
    return figure


def _merged(steps: Sequence[StepTime]) -> list[StepTime]:
    """By rows: of several workloads the one with the most such iterations."""
    most: dict[int, StepTime] = {}
    for step in steps:
        if step.count >= _LEAST_STEPS and (step.rows not in most or step.count > most[step.rows].count):
            most[step.rows] = step
    return [most[rows] for rows in sorted(most)]
