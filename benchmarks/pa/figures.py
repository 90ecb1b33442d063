"""Figures of one experiment, from the times and token counts of its requests. Pure. Times in seconds.

docs/measuring.md says how each is defined.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.pa.export import Request

Values = np.ndarray[Any, np.dtype[np.float64]]
PERCENTILES = (1, 10, 50, 90, 99)


@dataclass(frozen=True)
class Spread:
    """Of many values. Percentiles are nearest-rank: the smallest value that so many percent do not exceed."""

    mean: float
    least: float
    p1: float
    p10: float
    p50: float
    p90: float
    p99: float
    most: float
    count: int

    @classmethod
    def of(cls, values: Values) -> Spread | None:
        """None for no values."""
        if not len(values):
            return None
        p1, p10, p50, p90, p99 = np.percentile(values, PERCENTILES, method="inverted_cdf").tolist()
        least, most = float(values.min()), float(values.max())
        return cls(float(values.mean()), least, p1, p10, p50, p90, p99, most, len(values))


@dataclass(frozen=True)
class Figures:
    """What the table shows. A `Spread` is None where no request has such a value."""

    num_requests: int
    num_tokens: int
    """Of all answers."""
    num_prompt_tokens: int | None
    """None when prompts were text."""
    num_asked_tokens: int | None
    """The sum of max_tokens; None when a request had none."""
    num_short: int
    """Requests that ended before their max_tokens."""
    num_responses: int
    num_coalesced: int
    """Responses that held more than one token."""
    num_empty_finals: int
    """Responses without content that only ended their request; they are in no other figure."""
    seconds: float
    """From the first request's sending to the last response."""
    requests_per_s: float
    tokens_per_s: float
    first_token: Spread | None
    """From sending a request to its first response."""
    inter_token: Spread | None
    """One value a token: the k tokens of a response share the time since the response before it evenly."""
    response_gap: Spread | None
    """Between two responses of a request, however many tokens they hold."""
    per_output_token: Spread | None
    """One value a request: first to last response, by the tokens after the first response's."""
    latency: Spread | None
    """From sending a request to its last response."""
    request_tokens_per_s: Spread | None
    """One value a request: its tokens by its latency."""
    most_in_flight: int
    mean_in_flight: float
    """Over time."""


def figures(requests: Sequence[Request]) -> Figures:
    """Of at least one request."""
    answered = [request for request in requests if len(request.times)]
    start, end = min(r.sent for r in requests), max(r.ended for r in requests)
    seconds = (end - start) / 1e9
    num_tokens = sum(r.num_tokens for r in requests)
    latencies = _values((r.ended - r.sent) / 1e9 for r in answered)
    counts = np.concatenate([r.tokens for r in requests]) if requests else np.empty(0, np.int64)
    return Figures(
        num_requests=len(requests),
        num_tokens=num_tokens,
        num_prompt_tokens=_sum(r.prompt_tokens for r in requests),
        num_asked_tokens=_sum(r.asked_tokens for r in requests),
        num_short=sum(r.asked_tokens is not None and r.num_tokens < r.asked_tokens for r in requests),
        num_responses=len(counts),
        num_coalesced=int((counts > 1).sum()),
        num_empty_finals=sum(r.had_empty_final for r in requests),
        seconds=seconds,
        requests_per_s=len(requests) / seconds if seconds else 0.0,
        tokens_per_s=num_tokens / seconds if seconds else 0.0,
        first_token=Spread.of(_values((int(r.times[0]) - r.sent) / 1e9 for r in answered)),
        inter_token=Spread.of(_joined(inter_token(r) for r in answered)),
        response_gap=Spread.of(_joined(np.diff(r.times) / 1e9 for r in answered)),
        per_output_token=Spread.of(_joined(_per_output_token(r) for r in answered)),
        latency=Spread.of(latencies),
        request_tokens_per_s=Spread.of(_values(r.num_tokens * 1e9 / max(1, r.ended - r.sent) for r in answered)),
        most_in_flight=max(level for _, level in in_flight(requests)),
        mean_in_flight=sum((r.ended - r.sent) / 1e9 for r in requests) / seconds if seconds else 0.0,
    )


def inter_token(request: Request) -> Values:
    """Seconds, one value for each token after the first response's; their sum is first to last response."""
    counts = request.tokens[1:]
    gaps = np.diff(request.times) / 1e9
    # A response without tokens leaves its time to the next one that has some.
    waited, values = 0.0, []
    for gap, count in zip(gaps.tolist(), counts.tolist(), strict=True):
        waited += gap
        if count:
            values += [waited / count] * count
            waited = 0.0
    return np.array(values, dtype=np.float64)


def _per_output_token(request: Request) -> Values:
    after = int(request.tokens[1:].sum())
    return _values([(request.ended - int(request.times[0])) / 1e9 / after] if after else [])


def in_flight(requests: Sequence[Request]) -> list[tuple[float, int]]:
    """(seconds after the first was sent, requests sent and not ended from then on), in order of time."""
    start = min(request.sent for request in requests)
    # Ends come before beginnings of the same moment: perf_analyzer sends the next request once one has ended.
    lasting = [request for request in requests if request.ended > request.sent]
    changes = sorted([*((r.ended, -1) for r in lasting), *((r.sent, 1) for r in lasting)])
    steps: dict[int, int] = {start: 0}
    level = 0
    for when, change in changes:
        level += change
        steps[when] = level
    return [((when - start) / 1e9, level) for when, level in steps.items()]


def _values(values: Iterable[float]) -> Values:
    return np.array(list(values), dtype=np.float64)


def _joined(parts: Iterable[Values]) -> Values:
    return np.concatenate([np.empty(0), *parts])


def _sum(values: Iterable[int | None]) -> int | None:
    total = 0
    for value in values:
        if value is None:
            return None
        total += value
    return total
