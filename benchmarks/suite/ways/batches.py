"""Requests in batches that run to completion: a fixed size (static), or what came within a window (dynamic).

What a batcher in front of a model does: requests that come while a batch runs wait until it ends; every row is
computed until the longest is done; all answers come at the batch's end. Prompts are not padded, which favours it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from benchmarks.suite.batching import departure
from benchmarks.suite.ways.served import LIMIT_S, OnTokens, Served
from benchmarks.suite.workload import BenchRequest
from flover_backend.bench_engine.drive import Record, drive, together
from flover_backend.engine.engine import Engine


def serve_batches(
    engine: Engine,
    requests: Sequence[BenchRequest],
    batch_size: int,
    window_s: float | None,
    max_model_len: int,
    on_tokens: OnTokens | None,
) -> Served:
    """One batch after another, each of the oldest requests that wait."""
    served, start, done = Served.nothing(len(requests)), time.perf_counter(), 0
    ats = [request.at for request in requests]
    while done < len(requests):
        leaves = departure(ats[done:], batch_size, window_s)
        time.sleep(max(0.0, leaves - (time.perf_counter() - start)))
        now = time.perf_counter() - start
        here = sum(at <= now for at in ats[done:])
        numbers = range(done, done + min(batch_size, here))
        _serve_batch(engine, requests, numbers, now, max_model_len, served, on_tokens)
        done = numbers.stop
    return served


def _serve_batch(
    engine: Engine,
    requests: Sequence[BenchRequest],
    numbers: range,
    began: float,
    max_model_len: int,
    served: Served,
    on_tokens: OnTokens | None,
) -> None:
    batch = [requests[number] for number in numbers]
    longest = max(request.new_tokens for request in batch)
    lengths = [max(r.new_tokens, min(longest, max_model_len - len(r.prompt))) for r in batch]
    left = [request.new_tokens for request in batch]

    def count(place: int, token_ids: tuple[int, ...]) -> None:
        wanted = token_ids[: max(0, left[place])]
        left[place] -= len(token_ids)
        if wanted and on_tokens is not None:
            on_tokens(numbers[place], wanted)

    record = drive(
        engine,
        together([list(r.prompt) for r in batch], lengths),
        limit_s=LIMIT_S,
        on_tokens=count if on_tokens else None,
    )
    for number in numbers:
        served.responses[number] = [began + record.end]
    served.iterations += _live_rows(record, [request.new_tokens for request in batch], began)


def _live_rows(record: Record, lengths: list[int], began: float) -> list[tuple[float, int]]:
    """Of each iteration, how many rows still made a token that was asked for."""
    left, iterations = list(lengths), []
    for at, places in record.steps:
        iterations.append((began + at, sum(left[place] > 0 for place in places)))
        for place in places:
            left[place] -= 1
    return iterations
