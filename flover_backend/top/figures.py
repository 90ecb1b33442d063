"""From two readings of one model, what happened between them. Pure; times in seconds."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from flover_backend.top.exposition import Reading

LATENCIES = (
    "flover_time_to_first_token_seconds",
    "flover_inter_token_latency_seconds",
    "flover_queue_time_seconds",
    "flover_e2e_latency_seconds",
)


@dataclass(frozen=True)
class Spread:
    """A distribution's percentiles, interpolated within its buckets; the last bound stands for all beyond it."""

    count: int
    mean: float
    p50: float
    p95: float
    p99: float
    last_bound: float
    """A percentile that equals it may be larger."""


@dataclass(frozen=True)
class Change:
    """What happened in some time."""

    iterations: int
    rows: float | None
    """Mean rows of an iteration; None when there was none."""
    decode_tokens: int
    prefill_tokens: int
    finished: dict[str, int]
    """Reason -> requests; reasons without any are left out."""
    rejected: dict[str, int]
    preemptions: int
    time_to_first_token: Spread | None
    inter_token_latency: Spread | None
    queue_time: Spread | None
    e2e_latency: Spread | None


def change(earlier: Reading, later: Reading) -> Change:
    """Between two readings; `earlier` may be empty, for all since the model was loaded."""

    def gained(name: str) -> float:
        return max(0.0, later.value(name) - earlier.value(name))

    def gained_by_reason(name: str) -> dict[str, int]:
        before = earlier.by_label(name)
        found = {reason: round(count - before.get(reason, 0.0)) for reason, count in later.by_label(name).items()}
        return {reason: count for reason, count in sorted(found.items()) if count > 0}

    iterations = gained("flover_iteration_rows_count")
    first, gap, queued, whole = (spread(earlier, later, name) for name in LATENCIES)
    return Change(
        iterations=round(iterations),
        rows=gained("flover_iteration_rows_sum") / iterations if iterations else None,
        decode_tokens=round(gained("flover_decode_tokens_total")),
        prefill_tokens=round(gained("flover_prefill_tokens_total")),
        finished=gained_by_reason("flover_requests_finished_total"),
        rejected=gained_by_reason("flover_requests_rejected_total"),
        preemptions=round(gained("flover_preemptions_total")),
        time_to_first_token=first,
        inter_token_latency=gap,
        queue_time=queued,
        e2e_latency=whole,
    )


def spread(earlier: Reading, later: Reading, name: str) -> Spread | None:
    """Of the values between two readings; None for none."""
    before = earlier.buckets(name)
    # NOTE: a scrape may meet the server between two series of one snapshot, so counts may be a little out of order.
    counts = [max(0.0, count - before.get(bound, 0.0)) for bound, count in later.buckets(name).items()]
    cumulative = dict(zip(later.buckets(name), itertools.accumulate(counts, max), strict=True))
    total = max(cumulative.values(), default=0.0)
    if total <= 0:
        return None
    values = later.value(f"{name}_count") - earlier.value(f"{name}_count")
    seconds = later.value(f"{name}_sum") - earlier.value(f"{name}_sum")
    return Spread(
        count=round(total),
        mean=max(0.0, seconds) / max(1.0, values),
        p50=percentile(cumulative, 0.5),
        p95=percentile(cumulative, 0.95),
        p99=percentile(cumulative, 0.99),
        last_bound=_last_bound(cumulative),
    )


def percentile(cumulative: Mapping[float, float], share: float) -> float:
    """The value below which `share` of a histogram lies. `cumulative`: bound -> count, ordered, +Inf the last bound."""
    wanted = share * max(cumulative.values())
    low, below = 0.0, 0.0
    for bound, count in cumulative.items():
        if count >= wanted and count > below:
            inside = (wanted - below) / (count - below)
            return min(low + (bound - low) * inside, _last_bound(cumulative)) if bound != float("inf") else low
        low, below = bound, count
    return low


def _last_bound(cumulative: Mapping[float, float]) -> float:
    return max((bound for bound in cumulative if bound != float("inf")), default=0.0)
