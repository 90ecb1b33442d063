"""From the times at which tokens came to a `Run`: what every way of serving has in common.

Knows the bench's records and results; no engine, no way.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.suite.result import RequestResult, Run
from benchmarks.suite.workload import BenchRequest, Workload
from flover_backend.bench_engine.drive import Arrival, Record
from flover_backend.bench_engine.figures import BenchError, percentile

MAX_ITERATIONS = 2000
"""Kept of a run."""
LIMIT_S = 1800.0
"""Longest run of one way."""
OnTokens = Callable[[int, tuple[int, ...]], None]
"""(number of the request in its workload, its new tokens), as they come. From one thread at a time for a request."""


@dataclass(slots=True)
class Served:
    """Times are seconds after the workload's start."""

    responses: list[list[float]]
    """[requests]: when each of its responses came: one a token, or one in all."""
    iterations: list[tuple[float, int]] = field(default_factory=list)
    """(end, rows whose token somebody waits for); only those that gave a token."""
    widths: list[int] = field(default_factory=list)
    """Of each iteration the rows that it computed; empty where that is not known."""

    @classmethod
    def nothing(cls, num_requests: int) -> Served:
        """Before the first response."""
        return cls([[] for _ in range(num_requests)])


def arrival(request: BenchRequest, at: float | None = None, new_tokens: int | None = None) -> Arrival:
    """`request` for an engine, at its own time and of its own length unless others are given."""
    return Arrival(request.at if at is None else at, list(request.prompt), new_tokens or request.new_tokens)


def token_times(record: Record, num_requests: int) -> list[list[float]]:
    """[requests]: when each of its tokens came."""
    times: list[list[float]] = [[] for _ in range(num_requests)]
    for at, requests in record.steps:
        for request in requests:
            times[request].append(at)
    return times


def make_run(way: str, model: str, workload: Workload, served: Served, settings: dict[str, Any]) -> Run:
    """Raises `BenchError` where a request has no response.

    A request counts as sent when it should have been: waiting until an engine is free is part of its way's time.
    """
    stride = max(1, -(-len(served.iterations) // MAX_ITERATIONS))
    gaps = sorted(1e3 * (b - a) for times in served.responses for a, b in itertools.pairwise(times))
    return Run(
        way=way,
        layer="engine",
        model=model,
        workload=workload.name,
        kind=workload.kind,
        facts=dict(workload.facts),
        settings=settings,
        requests=[_result(r, times) for r, times in zip(workload.requests, served.responses, strict=True)],
        gaps_ms=_tails(gaps),
        iterations=served.iterations[::stride],
        widths=served.widths[::stride],
        iteration_stride=stride,
        num_responses=sum(map(len, served.responses)),
    )


def _result(request: BenchRequest, responses: Sequence[float]) -> RequestResult:
    if not responses:
        raise BenchError(f"the request of {request.new_tokens} tokens at {request.at:.3f} s was never answered")
    gaps = [1e3 * (b - a) for a, b in itertools.pairwise(responses)]
    return RequestResult(
        at=request.at,
        sent=request.at,
        first=responses[0],
        end=responses[-1],
        prompt_tokens=len(request.prompt),
        new_tokens=request.new_tokens,
        gap_p99_ms=percentile(gaps, 0.99) if len(gaps) > 1 else 0.0,
    )


def _tails(gaps_ms: list[float]) -> dict[str, float]:
    if not gaps_ms:
        return {}
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {name: percentile(gaps_ms, share) for name, share in shares.items()}
