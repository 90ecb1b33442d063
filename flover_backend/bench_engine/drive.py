"""Requests through a bare engine, with the time at which each iteration's tokens came out.

Knows the engine's interface (engine/interface.py) and a clock; nothing of models, devices or bars.
"""

from __future__ import annotations

import itertools
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from flover_backend.bench_engine.figures import BenchError
from flover_backend.engine.interface import EngineCore, SequenceUpdate
from flover_backend.request import Request, SamplingParams

LIMIT_S = 180.0
"""Longest run; a longer one is given up, so that the other parts still run."""
_KEYS = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request at `at` seconds after the run's start."""

    at: float
    prompt: list[int]
    new_tokens: int
    after_steps: int = 0
    """And not before so many steps gave tokens."""


@dataclass(slots=True)
class Record:
    """Times are seconds after the run's start; request i is the i-th arrival."""

    steps: list[tuple[float, list[int]]] = field(default_factory=list)
    """(time at which the step returned, requests that got a token in it, once a token)"""
    added: list[float] = field(default_factory=list)
    """[requests]: when it was handed to the engine."""

    @property
    def end(self) -> float:
        """When the last token came."""
        return self.steps[-1][0]

    def times(self, request: int) -> list[float]:
        """When each token of a request came."""
        return [at for at, requests in self.steps for r in requests if r == request]

    def all_started(self) -> float:
        """When the last of the requests had its first token."""
        return self.all_started_of(len(self.added))

    def all_started_of(self, count: int) -> float:
        """When the last of the first `count` requests had its first token."""
        waiting = dict.fromkeys(range(count))
        for at, requests in self.steps:
            for request in requests:
                waiting.pop(request, None)
            if not waiting:
                return at
        raise BenchError(f"{len(waiting)} requests never got a token")

    def gaps(self, since: float, until: float = float("inf")) -> list[float]:
        """Seconds between consecutive steps that ended in (since, until]."""
        ends = [at for at, _ in self.steps]
        return [b - a for a, b in itertools.pairwise(ends) if a >= since and b <= until]


def prompts(count: int, length: int, vocab_size: int, seed: int = 1) -> list[list[int]]:
    """Random token ids, above the usual special ones."""
    source = random.Random(seed)
    return [[source.randrange(3, vocab_size) for _ in range(length)] for _ in range(count)]


def together(prompt_ids: Sequence[list[int]], new_tokens: int | Sequence[int]) -> list[Arrival]:
    """All at once."""
    counts = [new_tokens] * len(prompt_ids) if isinstance(new_tokens, int) else new_tokens
    return [Arrival(0.0, ids, count) for ids, count in zip(prompt_ids, counts, strict=True)]


def drive(
    engine: EngineCore,
    arrivals: Sequence[Arrival],
    clock: Callable[[], float] = time.perf_counter,
    each_step: Callable[[Record], None] | None = None,
    limit_s: float = LIMIT_S,
    on_tokens: Callable[[int, tuple[int, ...]], None] | None = None,
) -> Record:
    """Run greedy requests of exactly their length; `each_step` may look on after every step (and add work itself).

    `on_tokens` is called with a request's number and its new tokens, as they come.

    Raises `BenchError` when a request ends early or the run takes too long; the engine is idle then too. After another
    exception, one that came out of a step or an interruption, it may not be.
    """
    record = Record()
    numbers: dict[int, int] = {}
    pending, start = deque(sorted(arrivals, key=lambda arrival: (arrival.after_steps, arrival.at))), clock()
    try:
        while pending or engine.has_work:
            now = clock() - start
            if now > limit_s:
                raise BenchError(f"the run was given up after {limit_s:.0f} s, {len(record.steps)} iterations")
            while pending and pending[0].at <= now and pending[0].after_steps <= len(record.steps):
                numbers[_add(engine, pending.popleft())] = len(record.added)
                record.added.append(clock() - start)
            if not engine.has_work:
                if pending[0].at <= now:
                    raise BenchError(f"all ended after {len(record.steps)} of {pending[0].after_steps} iterations")
                time.sleep(min(0.0005, pending[0].at - now))
                continue
            updates = engine.step()
            now = clock() - start
            got = []
            for update in updates:
                if not isinstance(update, SequenceUpdate):
                    raise BenchError(f"a request ended early: {update.message}")
                got += [numbers[update.key]] * len(update.token_ids)
                if on_tokens is not None:
                    on_tokens(numbers[update.key], update.token_ids)
            if got:
                record.steps.append((now, got))
            if each_step is not None:
                each_step(record)
    except Exception:
        with suppress(Exception):  # what went wrong first is told
            drain(engine, numbers)
        raise
    drain(engine, numbers)
    return record


def _add(engine: EngineCore, arrival: Arrival) -> int:
    key = next(_KEYS)
    params = SamplingParams(max_tokens=arrival.new_tokens, temperature=0.0, ignore_eos=True)
    engine.add(Request(key=key, prompt_ids=arrival.prompt, params=params, arrival_time=time.monotonic()))
    return key


def drain(engine: EngineCore, keys: Iterable[int]) -> None:
    """Cancel what is left of a run."""
    if engine.has_work:
        for key in keys:
            engine.cancel(key)
    while engine.has_work:
        engine.step()
