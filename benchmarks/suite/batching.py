"""When a batch leaves that runs to completion, and what that promises. Knows times alone; serves nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from benchmarks.suite.workload import BenchRequest

DEFAULT_WINDOW_MS = 50.0
"""Of dynamic batching; FasterTransformer's backend ships it."""
DEFAULT_BATCH = 32


def departure(arrivals: Sequence[float], batch_size: int, window_s: float | None) -> float:
    """When a batch that begins with the first of `arrivals` (seconds, ascending) leaves, if the engine is free.

    It leaves when full, or `window_s` after its first request came (Triton's max_queue_delay_microseconds). With None
    there is no window: it waits until full, or until no more requests are to come.
    """
    if window_s is None:
        return arrivals[min(batch_size, len(arrivals)) - 1]
    full = arrivals[batch_size - 1] if len(arrivals) >= batch_size else math.inf
    return min(full, arrivals[0] + window_s)


def expected_end(
    requests: Sequence[BenchRequest], batch_size: int, window_s: float | None, step_s: Callable[[int], float]
) -> float:
    """When the last batch ends if an iteration of so many rows takes `step_s` of them, all until the longest ends."""
    ats, now, done = [request.at for request in requests], 0.0, 0
    while done < len(requests):
        now = max(now, departure(ats[done:], batch_size, window_s))
        size = min(batch_size, sum(at <= now for at in ats[done:]))
        now += step_s(size) * max(request.new_tokens for request in requests[done : done + size])
        done += size
    return now
