"""The run as a PNG: how many requests each iteration fused, and which requests they were."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from flover_backend.channel import Iteration
from flover_backend.demo.traffic import Record

FUSED, WAITING, SPAN, LEAVE = "#4c78a8", "#f58518", "#9ecae9", "#54a24b"


def save_picture(path: Path, records: Sequence[Record], iterations: Sequence[Iteration]) -> None:
    """Write `path`. Both halves share the axis of iterations; a second one on top shows seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context({"font.size": 10, "axes.spines.right": False}):
        figure = Figure(figsize=(11, 7.5), layout="constrained")
        FigureCanvasAgg(figure)
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[1, 1.25])
        _draw_rows(upper, iterations)
        _draw_requests(lower, records, iterations)
        _add_seconds(upper, iterations)
        figure.legend(*lower.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
        figure.suptitle(f"{len(records)} requests, one fused batch: every live request gets a token in each iteration")
        figure.savefig(path, dpi=130)


def _draw_rows(axes: Any, iterations: Sequence[Iteration]) -> None:
    steps = range(len(iterations))
    rows = [record.num_live for record in iterations]
    axes.fill_between(steps, rows, step="post", color=FUSED, alpha=0.85, label="requests in the iteration")
    moved = [step for step in steps if iterations[step].row_moves]
    axes.plot(moved, [rows[step] for step in moved], "v", color=LEAVE, markersize=5, label="rows were reordered")
    waiting = [record.num_waiting for record in iterations]
    if any(waiting):
        axes.step(steps, waiting, where="post", color=WAITING, label="requests waiting")
    axes.set_ylabel("in-flight requests")
    axes.set_ylim(0, max(rows, default=1) * 1.25 + 1)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="upper right", ncols=3, frameon=False)
    axes.grid(axis="y", alpha=0.3)


def _draw_requests(axes: Any, records: Sequence[Record], iterations: Sequence[Iteration]) -> None:
    starts = [record.time for record in iterations]
    for record in records:
        first, last, sent = (bisect_left(starts, when) for when in _moments(record))
        axes.barh(record.number, first - sent, left=sent, color=WAITING, height=0.7)
        axes.barh(record.number, last - first, left=first, color=SPAN, height=0.7)
        axes.text(last, record.number, f" {len(record.token_times)}", va="center", fontsize=7, color="#555555")
    axes.barh(0, 0, color=WAITING, label="sent, no token yet")
    axes.barh(0, 0, color=SPAN, label="tokens are streaming (their number beside it)")
    axes.set_ylim(len(records) + 0.7, 0.3)
    axes.set_xlim(0, len(iterations) * 1.03)
    axes.set_ylabel("request, by arrival")
    axes.set_xlabel("iteration")
    axes.set_yticks([1, *range(4, len(records) + 1, max(4, len(records) // 8))])


def _moments(record: Record) -> tuple[float, float, float]:
    """First token, last token, sending."""
    return record.token_times[0], record.token_times[-1], record.sent or 0.0


def _add_seconds(axes: Any, iterations: Sequence[Iteration]) -> None:
    if not iterations:
        return
    top = axes.twiny()
    top.set_xlim(axes.get_xlim())
    ticks = _second_ticks([record.time - iterations[0].time for record in iterations])
    top.set_xticks(list(ticks.values()), [f"{second} s" for second in ticks])
    top.tick_params(length=2)


def _second_ticks(starts: Sequence[float]) -> dict[int, int]:
    """Second -> the iteration at that time, for seconds that are far enough apart to be labelled."""
    ticks: dict[int, int] = {}
    for second in range(int(starts[-1]) + 1):
        step = bisect_left(starts, second)
        if not ticks or step - max(ticks.values()) >= len(starts) / 14:
            ticks[second] = step
    return ticks
