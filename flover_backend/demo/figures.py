"""The demo's figures, from what the client saw and what the engine remembers. Pure; times in seconds."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from flover_backend.channel import Iteration
from flover_backend.demo.traffic import Record


@dataclass(frozen=True)
class Spread:
    """Of many values: the median, the 95th percentile, the largest."""

    median: float
    p95: float
    worst: float


@dataclass(frozen=True)
class Figures:
    """What the table shows."""

    first_token: Spread
    """From sending a request to its first token."""
    gap: Spread
    """Between two tokens of one request."""
    whole: Spread
    """From sending a request to its end."""
    num_tokens: int
    seconds: float
    """From the first request to the last answer's end."""
    num_iterations: int
    mean_rows: float
    """Live rows of an iteration."""
    most_rows: int
    num_reorders: int
    """Iterations before which rows were moved."""
    num_row_moves: int


def spread(values: Sequence[float]) -> Spread:
    """Nearest-rank percentiles; zeros for no values."""
    ordered = sorted(values) or [0.0]
    return Spread(*(ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.95, 1.0)))


def gaps(record: Record) -> list[float]:
    """Times between tokens; those that came together share the time since the ones before evenly."""
    found: list[float] = []
    times = sorted(dict.fromkeys(record.token_times))
    for before, after in itertools.pairwise(times):
        together = record.token_times.count(after)
        found += [(after - before) / together] * together
    return found


def figures(records: Sequence[Record], iterations: Sequence[Iteration]) -> Figures:
    """The figures of a complete run."""
    sent = [record.sent or 0.0 for record in records]
    ended = [record.ended or 0.0 for record in records]
    rows = [iteration.num_live for iteration in iterations]
    return Figures(
        first_token=spread([r.token_times[0] - start for r, start in zip(records, sent, strict=True)]),
        gap=spread([gap for record in records for gap in gaps(record)]),
        whole=spread([end - start for start, end in zip(sent, ended, strict=True)]),
        num_tokens=sum(len(record.token_times) for record in records),
        seconds=max(ended) - min(sent),
        num_iterations=len(rows),
        mean_rows=sum(rows) / max(1, len(rows)),
        most_rows=max(rows, default=0),
        num_reorders=sum(iteration.row_moves > 0 for iteration in iterations),
        num_row_moves=sum(iteration.row_moves for iteration in iterations),
    )
