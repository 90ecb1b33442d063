"""Quantities that the suite's tables and plots share, from runs alone. Pure. Seconds unless the name says otherwise.

A request's times count from when it should have been sent (`at`), so that a generator that falls behind, or a way that
lets requests wait, hides nothing. Requests that failed have no latency and no tokens here; goodput counts them as
missed.
"""

from __future__ import annotations

import itertools
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.suite.result import RequestResult, Results, Run

Values = np.ndarray[Any, np.dtype[np.float64]]
_SAMPLES = 1024
"""Moments of a run at which its bound is taken."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one request, for goodput. The defaults: an answer that begins at once for a reader, then 20 tokens/s."""

    first_token_s: float = 0.2
    gap_ms: float = 50.0
    """p99 of the times between its responses."""


@dataclass(frozen=True, slots=True)
class Goodput:
    """What was served within limits."""

    share: float
    """Of the requests, 0 to 1."""
    requests_per_s: float
    """The share of the rate at which requests came."""


@dataclass(frozen=True, slots=True)
class StepTime:
    """Iterations with the same number of live rows."""

    rows: int
    seconds: float
    """Their median."""
    bound: float | None
    """S with their median live KV; None where the products were not measured at so many rows or more."""
    count: int


def answered(run: Run) -> list[RequestResult]:
    """Those that did not fail."""
    return [request for request in run.requests if not request.error]


def latencies(run: Run) -> list[float]:
    """Until the last token, one a request."""
    return [request.end - request.at for request in answered(run)]


def first_tokens(run: Run) -> list[float]:
    """Until the first token, one a request."""
    return [request.first - request.at for request in answered(run)]


def mean_latency_over_single(run: Run) -> float | None:
    """The papers' measure of what fusion costs a request; None without a lone request's time."""
    return statistics.fmean(latencies(run)) / run.single_s if run.single_s and answered(run) else None


def twin(runs: Iterable[Run], run: Run, way: str) -> Run | None:
    """The run of the same workload and model served in another way, through the same layer or else the same server.

    Several (a way with several settings): the fastest, since a baseline gets its best setting.
    """
    same = [
        other
        for other in runs
        if (other.way, other.model, other.workload) == (way, run.model, run.workload)
        and family(other.layer) == family(run.layer)
    ]
    return min(same, key=lambda other: (other.layer != run.layer, other.wall_s), default=None)


def family(layer: str) -> str:
    """`triton` for Triton's own batching and instances too: they stand behind the same server."""
    return "triton" if layer.startswith("triton") else layer


def speed_up(run: Run, baseline: Run) -> float:
    """How many times as long the baseline took overall."""
    return baseline.wall_s / run.wall_s


def in_flight(run: Run) -> list[tuple[float, int]]:
    """(when, requests that had come and not ended from then on), in order of time, first (0, 0)-like to (end, 0)."""
    changes: dict[float, int] = defaultdict(int)
    for request in run.requests:
        changes[request.at] += 1
        changes[request.end] -= 1
    ordered = sorted(changes.items())
    return list(zip([when for when, _ in ordered], itertools.accumulate(change for _, change in ordered), strict=True))


def mean_in_flight(run: Run) -> float:
    """Over time, from the first arrival until the last token."""
    span = max(r.end for r in run.requests) - min(r.at for r in run.requests)
    return sum(r.end - r.at for r in run.requests) / span if span else 0.0


def overlap(run: Run) -> float:
    """Mean requests in flight over all requests, 0 to 1: Flover's overlap (its Poisson table)."""
    return mean_in_flight(run) / len(run.requests)


def tokens_per_s(run: Run) -> float:
    """Of all requests together, over the whole run."""
    return sum(r.new_tokens for r in answered(run)) / run.wall_s


def tokens_per_s_a_gpu(run: Run, results: Results) -> float:
    """Likewise, for each GPU (or the CPU)."""
    return tokens_per_s(run) / results.num_gpus


def tokens_per_s_a_user(run: Run) -> float:
    """Median over requests of the tokens by the whole latency, waiting included."""
    return statistics.median([r.new_tokens / (r.end - r.at) for r in answered(run)] or [0.0])


def rate(run: Run) -> float:
    """Requests a second at which they came, as drawn; `facts` hold the mean that the draws are of."""
    arrivals = [request.at for request in run.requests]
    span = max(arrivals) - min(arrivals)
    return (len(arrivals) - 1) / span if span else float("inf")


def within(request: RequestResult, limits: Limits) -> bool:
    """Answered, and both limits kept."""
    return (
        not request.error and request.first - request.at <= limits.first_token_s and request.gap_p99_ms <= limits.gap_ms
    )


def goodput(run: Run, limits: Limits) -> Goodput:
    """Of at least one request."""
    share = sum(within(request, limits) for request in run.requests) / len(run.requests)
    return Goodput(share, share * rate(run))


def products_s(results: Results, rows: float) -> float | None:
    """The weight products of an iteration of so many rows, between two measured ones by a straight line."""
    measured = sorted(results.products_ms.items())
    if not measured or rows > measured[-1][0]:
        return None
    return float(np.interp(rows, [count for count, _ in measured], [ms for _, ms in measured])) / 1e3


def step_bound(results: Results, rows: float, live_tokens: float) -> float | None:
    """S: the weight products at `rows`, and the live KV at copy bandwidth (docs/performance.md)."""
    products = products_s(results, rows)
    if products is None or not results.copy_bandwidth:
        return None
    return products + live_tokens * results.kv_bytes_per_token / results.copy_bandwidth


def live_tokens(run: Run, moments: Sequence[float]) -> list[float]:
    """Tokens whose KV is live at each moment: prompts, and answers with a token an iteration.

    Where iterations are not known, as if an answer's tokens came evenly.
    """
    ends = [end for end, _ in run.iterations]

    def progress(times: Sequence[float]) -> Values:
        return np.interp(times, ends, np.arange(len(ends))) if ends else np.asarray(times, dtype=np.float64)

    at, done = np.asarray(moments, dtype=np.float64), answered(run)
    now = progress(moments)
    firsts, lasts = progress([r.first for r in done]), progress([r.end for r in done])
    total = np.zeros_like(at)
    for r, first, last in zip(done, firsts, lasts, strict=True):
        share = np.clip((now - first) / max(last - first, 1e-9), 0.0, 1.0)
        total += np.where((at >= r.first) & (at <= r.end), r.prompt_tokens + 1 + share * (r.new_tokens - 1), 0.0)
    return [float(value) for value in total]


def step_times(run: Run, results: Results) -> list[StepTime]:
    """Of a run with `iterations`, by rows. A time is between two kept ends with as many rows, by those between.

    Only while no request waits for its first token: iterations that prompts take part in have another bound.
    """
    live = live_tokens(run, [when for when, _ in run.iterations])
    times: dict[int, list[tuple[float, float]]] = defaultdict(list)
    waits = np.array([(r.sent, r.first) for r in run.requests], dtype=np.float64).reshape(-1, 2)
    for (before, (start, rows)), (_, (end, rows_after)) in itertools.pairwise(enumerate(run.iterations)):
        if rows == rows_after and rows > 0 and not ((waits[:, 0] < end) & (waits[:, 1] > start)).any():
            times[rows].append(((end - start) / run.iteration_stride, live[before]))
    found = []
    for rows, pairs in sorted(times.items()):
        seconds, tokens = (statistics.median(values) for values in zip(*pairs, strict=True))
        found.append(StepTime(rows, seconds, step_bound(results, rows, tokens), len(pairs)))
    return found


def bound_over_single(run: Run, results: Results) -> float | None:
    """Mean S of the iterations that a request of this run takes part in, over those of such a request alone.

    The latency ratio of an engine that makes every iteration in S. Where iterations are not known, as if they came
    evenly over the run. None where S is not known at all its rows.
    """
    if run.iterations:
        moments, rows = [end for end, _ in run.iterations], [level for _, level in run.iterations]
    else:
        moments, rows = _sampled(in_flight(run))
    live = live_tokens(run, moments)
    bounds = [step_bound(results, count, tokens) for count, tokens in zip(rows, live, strict=True)]
    done = answered(run)
    alone = [step_bound(results, 1, r.prompt_tokens + r.new_tokens / 2) for r in done]
    known = [bound for bound in bounds if bound is not None]
    lone = [bound for bound in alone if bound is not None]
    if not done or len(known) < len(bounds) or len(lone) < len(alone):
        return None
    spent = sum(count * bound for count, bound in zip(rows, known, strict=True))
    return float(spent / sum(rows) / statistics.fmean(lone))


def _sampled(steps: Sequence[tuple[float, int]]) -> tuple[list[float], list[int]]:
    """Moments, evenly over a series that begins with each (when, level), and the levels there."""
    begin, end = steps[0][0], steps[-1][0]
    moments = np.linspace(begin, end, _SAMPLES, endpoint=False) + (end - begin) / _SAMPLES / 2
    places = np.searchsorted([when for when, _ in steps], moments, side="right") - 1
    return moments.tolist(), [steps[place][1] for place in places]
