"""Settings among which a baseline gets its best, and which of them are worth a run.

Knows how batches leave (batches.py); runs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.suite.ways.batches import departure
from benchmarks.suite.workload import BenchRequest

PAPER_WINDOWS_S = (2.0, 4.0, 8.0, 16.0)
"""Of dynamic batching, beside a lone request of 9.1 s (systems.md 1.7)."""
DEFAULT_WINDOW_MS = 50.0
"""FasterTransformer's backend ships it."""


def dynamic_settings(scale: float, batch_size: int | None = None) -> list[dict[str, Any]]:
    """Windows to choose the best of: none, 50 ms, and the papers' times `scale` (a lone request's time here over the
    paper's)."""
    windows = dict.fromkeys((0.0, DEFAULT_WINDOW_MS, *(1e3 * scale * window for window in PAPER_WINDOWS_S)))
    sizes = {} if batch_size is None else {"batch_size": batch_size}
    return [{"window_ms": window} | sizes for window in windows]


def shortlist(
    requests: Sequence[BenchRequest],
    choices: Sequence[dict[str, Any]],
    step_s: float,
    default_batch: int,
    count: int = 2,
) -> list[dict[str, Any]]:
    """The `count` settings of dynamic batching that are expected to be over first, the best first.

    `step_s`: of an iteration, whatever its rows (the weights are read once for all of them). The order does not depend
    on it being exact; settings that are expected to be equal keep the order of `choices`.
    """

    def expected(choice: dict[str, Any]) -> float:
        return expected_end(requests, choice.get("batch_size", default_batch), choice["window_ms"] / 1e3, step_s)

    return sorted(choices, key=expected)[:count]


def expected_end(requests: Sequence[BenchRequest], batch_size: int, window_s: float, step_s: float) -> float:
    """When dynamic batching ends if every iteration takes `step_s`."""
    ats, now, done = [request.at for request in requests], 0.0, 0
    while done < len(requests):
        now = max(now, departure(ats[done:], batch_size, window_s))
        size = min(batch_size, sum(at <= now for at in ats[done:]))
        now += step_s * max(request.new_tokens for request in requests[done : done + size])
        done += size
    return now
