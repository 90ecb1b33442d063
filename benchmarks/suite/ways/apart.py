"""Requests that never share an iteration: one after another on one engine, or each on a model instance of its own.

Model instances are FasterTransformer's way to serve requests at the same time (Flover, section 2; systems.md 1.7): the
weights are shared, everything else is an instance's, kernels of different instances meet on the GPU only. A thread
drives each instance. They share the interpreter, which must not become what is measured: N instances' iterations have
N x 7 ms on an H200 for 13B when the weights' bandwidth limits them, and a thread holds the interpreter for the host's
part of one only, never while it waits for the GPU. How much that came to is measured (`host_share`).
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Barrier, Event

import torch

from benchmarks.suite.ways.served import LIMIT_S, OnTokens, Served, arrival
from benchmarks.suite.workload import BenchRequest
from flover_backend.bench_engine.drive import Record, drive
from flover_backend.bench_engine.figures import BenchError
from flover_backend.engine.engine import Engine

TOLD_EVERY = 8


@dataclass(slots=True)
class _Work:
    """What the threads share. Each writes its own request's place; `host_s` has a place an engine, by its id."""

    free: queue.SimpleQueue[Engine]
    start: float
    served: Served
    on_tokens: OnTokens | None
    host_s: dict[int, float]
    is_over: Event = field(default_factory=Event)
    """Set when a request failed or the run was stopped: the others are then given up."""


def serve_apart(
    engines: Sequence[Engine],
    requests: Sequence[BenchRequest],
    on_tokens: OnTokens | None,
    tell: Callable[[str], None],
) -> tuple[Served, float | None]:
    """A request takes a free engine for itself, or waits for one: first come, first served.

    Also the share of the time in which any thread was busy on the host, or waited for the interpreter, all threads
    added up; None where nothing runs ahead of the host. Raises what the first failing request raised; those that wait
    are then given up.
    """
    free = queue.SimpleQueue[Engine]()
    for engine in engines:
        free.put(engine)
    work = _Work(free, 0.0, Served.nothing(len(requests)), on_tokens, {})
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(len(engines), "instance", _prepare, (max(1, before // len(engines)),))
    try:
        _start_threads(pool, len(engines))
        work.start, futures = time.perf_counter(), []
        for number, request in enumerate(requests):
            time.sleep(max(0.0, request.at - (time.perf_counter() - work.start)))
            futures.append(pool.submit(_serve_one, work, request, number))
            _raise_failures(futures)
        for done, future in enumerate(futures, 1):
            future.result()
            if done % TOLD_EVERY == 0 and done < len(futures):
                tell(f"{done} of {len(futures)} requests, {time.perf_counter() - work.start:.0f} s")
        wall = time.perf_counter() - work.start
    except BaseException:
        work.is_over.set()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)
    if len(engines) == 1:
        work.served.iterations = [(at, 1) for times in work.served.responses for at in times]
    return work.served, sum(work.host_s.values()) / wall if work.host_s else None


def _serve_one(work: _Work, request: BenchRequest, number: int) -> None:
    """In a thread of the pool. There are as many threads as engines, so that one is free."""
    engine, on_tokens, host_s = work.free.get(), work.on_tokens, work.host_s

    def heard(_: int, token_ids: tuple[int, ...]) -> None:
        assert on_tokens is not None
        on_tokens(number, token_ids)

    def stepped(_: Record) -> None:
        if work.is_over.is_set():
            raise BenchError("another request failed, or the run was stopped")
        waited = engine.runner.waited_seconds
        if waited is not None and engine.last_stats is not None:
            host_s[id(engine)] = host_s.get(id(engine), 0.0) + engine.last_stats.iteration.seconds - waited

    try:
        began = time.perf_counter() - work.start
        alone = [arrival(request, at=0.0)]
        record = drive(
            engine, alone, each_step=stepped, limit_s=LIMIT_S, on_tokens=None if on_tokens is None else heard
        )
        work.served.responses[number] = [began + at for at, _ in record.steps]
    finally:
        work.free.put(engine)


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
