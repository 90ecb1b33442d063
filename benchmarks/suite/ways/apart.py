"""Requests that never share an iteration: one after another on one engine, or each on a model instance of its own.

Model instances are FasterTransformer's way to serve requests at the same time (Flover, section 2; systems.md 1.7): the
weights are shared, everything else is an instance's, kernels of different instances meet on the GPU only. A thread
drives each instance. They share the interpreter, but hold it for the 0.1 to 0.3 ms of host work an iteration only, not
while they wait for the GPU; N instances' iterations take about N times as long as one's, since each reads all weights
(7 ms on an H200 for 13B). So the interpreter is busy for a few percent of the time and no part of what is measured.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Barrier

import torch

from benchmarks.suite.ways.served import LIMIT_S, OnTokens, Served, arrival
from benchmarks.suite.workload import BenchRequest
from flover_backend.bench_engine.drive import drive
from flover_backend.engine.engine import Engine


def serve_apart(engines: Sequence[Engine], requests: Sequence[BenchRequest], on_tokens: OnTokens | None) -> Served:
    """A request takes a free engine for itself, or waits for one: first come, first served.

    Raises what the first failing request raised; those that wait are then given up.
    """
    served, free = Served.nothing(len(requests)), queue.SimpleQueue[Engine]()
    for engine in engines:
        free.put(engine)
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(len(engines), "instance", _prepare, (max(1, before // len(engines)),))
    try:
        _start_threads(pool, len(engines))
        start, futures = time.perf_counter(), []
        for number, request in enumerate(requests):
            time.sleep(max(0.0, request.at - (time.perf_counter() - start)))
            futures.append(pool.submit(_serve_one, free, request, number, start, served, on_tokens))
            _raise_failures(futures)
        for future in futures:
            future.result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)
    if len(engines) == 1:
        served.iterations = [(at, 1) for times in served.responses for at in times]
    return served


def _serve_one(
    free: queue.SimpleQueue[Engine],
    request: BenchRequest,
    number: int,
    start: float,
    served: Served,
    on_tokens: OnTokens | None,
) -> None:
    """In a thread of the pool. There are as many threads as engines, so that one is free."""
    engine = free.get()
    heard: OnTokens | None = None if on_tokens is None else lambda _, token_ids: on_tokens(number, token_ids)
    try:
        began = time.perf_counter() - start
        record = drive(engine, [arrival(request, at=0.0)], limit_s=LIMIT_S, on_tokens=heard)
        served.responses[number] = [began + at for at, _ in record.steps]
    finally:
        free.put(engine)


def _prepare(num_threads: int) -> None:
    """Of a new thread: its share of the cores, and the GPU's context, which kernels of ours need to be there."""
    torch.set_num_threads(num_threads)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()


def _start_threads(pool: ThreadPoolExecutor, count: int) -> None:
    """All at once, before the clock starts; each waits for the others, so that none takes two turns."""
    barrier = Barrier(count)
    for future in [pool.submit(barrier.wait, 60.0) for _ in range(count)]:
        future.result()


def _raise_failures(futures: list[Future[None]]) -> None:
    for future in futures:
        if future.done():
            future.result()
