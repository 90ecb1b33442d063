"""Runs a list of calls with several processes that start together, and makes a `Run` of their answers."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from benchmarks.pa.errors import MeasurementFailed
from benchmarks.pa.run import Target
from benchmarks.suite.load.calls import Answer, Call
from benchmarks.suite.load.worker import work
from benchmarks.suite.result import RequestResult, Run
from benchmarks.suite.workload import Workload

LIMIT_S = 600.0
"""Longest run; a stream that is still open then fails with DEADLINE_EXCEEDED."""
START_DELAY_S = 0.1
CONNECT_TIMEOUT_S = 30.0
START_TIMEOUT_S = 60.0
CORES_A_PROCESS = 4
"""The server has the others."""


def default_processes() -> int:
    """For this machine."""
    return max(1, len(os.sched_getaffinity(0)) // CORES_A_PROCESS)


def send_calls(
    target: Target,
    calls: Sequence[Call],
    processes: int | None = None,
    limit_s: float = LIMIT_S,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
    users: int | None = None,
    on_start: Callable[[float], None] = lambda start: None,
) -> list[Answer]:
    """One answer a call, in their order. Raises `MeasurementFailed` when the server cannot be reached.

    `users`: so many at any moment, the next as soon as one has ended, not before its time. `on_start` is told the
    moment from which times count, on the clock of `time.monotonic`, shortly before it.
    """
    count = min(processes or default_processes(), len(calls), users or len(calls))
    if count < 1:
        raise MeasurementFailed("there is no request to send; give at least one")
    context = multiprocessing.get_context("spawn")
    headers = [(name.lower(), value) for name, value in target.metadata().items()]
    pipes: list[Connection] = []
    workers = []
    try:
        for number in range(count):
            ours, theirs = context.Pipe()
            share = None if users is None else len(range(number, users, count))
            arguments = (
                *(theirs, target.url, target.model, headers, calls[number::count]),
                *(limit_s, connect_timeout_s, share),
            )
            worker = context.Process(target=work, args=arguments, daemon=True)
            worker.start()
            theirs.close()
            pipes.append(ours)
            workers.append(worker)
        for pipe in pipes:
            _receive(pipe, START_TIMEOUT_S, target)
        start = time.monotonic() + START_DELAY_S
        on_start(start)
        for pipe in pipes:
            pipe.send(start)
        last = max(call.at for call in calls)
        parts = [_receive(pipe, last + limit_s + START_TIMEOUT_S, target) for pipe in pipes]
    finally:
        for worker in workers:
            worker.join(5.0)
            if worker.is_alive():
                worker.kill()
                worker.join()
    answers: list[Answer] = [parts[number % count][number // count] for number in range(len(calls))]
    return answers


def _receive(pipe: Connection, timeout_s: float, target: Target) -> Any:
    if not pipe.poll(timeout_s):
        raise MeasurementFailed(f"a process of the load generator did not answer within {timeout_s:g} s")
    try:
        received = pipe.recv()
    except EOFError:
        raise MeasurementFailed("a process of the load generator ended by itself; its error is above") from None
    if isinstance(received, Exception):
        raise MeasurementFailed(f"the load generator failed at {target.url}: {received or type(received).__name__}")
    return received


def run_of(
    workload: Workload,
    calls: Sequence[Call],
    answers: Sequence[Answer],
    layer: str,
    model: str,
    settings: dict[str, Any],
) -> Run:
    """What the suite keeps of a run. A cancelled request has fewer tokens and no error."""
    gaps = np.concatenate([np.empty(0), *(np.diff(answer.times) for answer in answers)]) * 1e3
    return Run(
        way="fused",
        layer=layer,
        model=model,
        workload=workload.name,
        kind=workload.kind,
        facts=workload.facts,
        settings=settings,
        requests=[_result(call, answer) for call, answer in zip(calls, answers, strict=True)],
        gaps_ms=percentiles(gaps),
        num_responses=sum(len(answer.times) for answer in answers),
    )


def percentiles(values: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, float]:
    """p50, p90, p99 (nearest rank) and max; empty for none."""
    if not len(values):
        return {}
    p50, p90, p99 = np.percentile(values, (50, 90, 99), method="inverted_cdf").tolist()
    return {"p50": p50, "p90": p90, "p99": p99, "max": float(values.max())}


def _result(call: Call, answer: Answer) -> RequestResult:
    gaps = percentiles(np.diff(answer.times) * 1e3)
    return RequestResult(
        at=call.at,
        sent=answer.sent,
        first=float(answer.times[0]) if len(answer.times) else answer.ended,
        end=float(answer.times[-1]) if len(answer.times) and not answer.code else answer.ended,
        prompt_tokens=len(call.prompt),
        new_tokens=answer.num_tokens,
        error=f"{answer.code}: {answer.message}" if answer.code else "",
        gap_p99_ms=gaps.get("p99", 0.0),
    )
