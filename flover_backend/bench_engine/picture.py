"""A recorded timeline as a picture: a lane for each phase of the host, one for each kind of kernel. Pure matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot

from flover_backend.bench_engine.timeline import KINDS, OTHER, PHASES, Span, Timeline, busy

_PHASE_COLOURS = dict(zip(PHASES, ("#7b8794", "#3e4c59", "#a3b1bf"), strict=True))
_KIND_COLOURS = dict(
    zip(
        (*(kind for kind, _ in KINDS), OTHER),
        ("#b07aa1", "#e15759", "#f2a93b", "#4e79a7", "#76b7b2", "#59a14f", "#9c755f", "#d37295", "#9a9a9a"),
        strict=True,
    )
)
_LANE_INCHES = 0.32
_ANY = "GPU: any kernel"
_ZOOM = 0.03
"""Share of the time that the lower half shows, from the middle on: a few layers."""
_LEAST = 0.0006
"""Drawn width of a span, at least: a share of the width, about a pixel."""
Lane = tuple[str, str, list[Span]]


def draw(timeline: Timeline, title: str, path: Path) -> None:
    """Write a PNG: the whole, with how long each lane was busy and the share of the time that is, and a detail."""
    path.parent.mkdir(parents=True, exist_ok=True)
    spans, lanes = [*timeline.host, *timeline.device], _lanes(timeline)
    begin, end = min((s.start for s in spans), default=0.0), max((s.end for s in spans), default=1.0)
    middle, detail = (begin + end) / 2, (end - begin) * _ZOOM
    height = 2 * (1.0 + _LANE_INCHES * len(lanes))
    figure, (whole, part) = pyplot.subplots(2, figsize=(15, height), dpi=130, layout="constrained")
    _draw_lanes(whole, lanes, begin, end, 1e3, "milliseconds")
    for place, (_, _, of_lane) in enumerate(lanes):
        note = f"{busy(of_lane) / 1e3:.2f} ms  {busy(of_lane) / (end - begin):.1%}"
        whole.text(1.005, place, note, transform=whole.get_yaxis_transform(), va="center", fontsize=8)
    idle = f"; GPU idle {timeline.idle_share:.2%}" if timeline.device else "; no GPU kernels"
    whole.set_title(title + idle, fontsize=11, loc="left")
    _draw_lanes(part, lanes, middle, middle + detail, 1.0, "microseconds")
    part.set_title(f"from {(middle - begin) / 1e3:.2f} ms on", fontsize=10, loc="left")
    figure.savefig(path)
    pyplot.close(figure)


def _draw_lanes(axes: Any, lanes: list[Lane], begin: float, end: float, unit: float, unit_name: str) -> None:
    least = (end - begin) * _LEAST
    for place, (label, colour, of_lane) in enumerate(lanes):
        shown = [s for s in of_lane if s.end > begin and s.start < end]
        width = least if label != _ANY else 0.0  # its gaps must not be drawn over
        bars = [((s.start - begin) / unit, max(s.end - s.start, width) / unit) for s in shown]
        axes.broken_barh(bars, (place - 0.4, 0.8), facecolors=colour, linewidth=0, snap=False)
    axes.set_yticks(range(len(lanes)), [label for label, _, _ in lanes], fontsize=9)
    axes.set_ylim(len(lanes) - 0.4, -0.6)
    axes.set_xlim(0, (end - begin) / unit)
    axes.set_xlabel(unit_name)
    for span in lanes[0][2]:
        axes.axvline((span.start - begin) / unit, color="#000000", linewidth=0.4, alpha=0.35)
    axes.axhline(len(PHASES) - 0.5, color="#000000", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _lanes(timeline: Timeline) -> list[Lane]:
    """(label, colour, spans) from the top down; a kind that never ran has no lane."""
    lanes = [(f"host: {name}", _PHASE_COLOURS[name], [s for s in timeline.host if s.lane == name]) for name in PHASES]
    if timeline.device:
        lanes.append((_ANY, "#222222", timeline.device))
    for kind, colour in _KIND_COLOURS.items():
        spans = [span for span in timeline.device if span.lane == kind]
        if spans:
            lanes.append((f"GPU: {kind}", colour, spans))
    return lanes
