"""Random traffic through one engine, and the comparison of every request with the same request run alone."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from lone import Collector, Sequence, make_engine, make_request, run_alone

from flover_backend.engine.engine import Engine
from flover_backend.errors import DoesNotFit
from flover_backend.models.batch import Model
from flover_backend.request import FinishReason, Request, SamplingParams
from flover_backend.scheduler.plan import Plan

NEAR_TIE = 1e-4
MAX_LEN, BLOCK = 128, 8
MAX_STEPS = 20_000


@dataclass(frozen=True)
class Visit:
    """A request, when it comes, and what becomes of it other than running to its end. Times are counts of steps."""

    request: Request
    arrival: int
    cancel_at: int | None = None
    stop_after: int | None = None
    """The front finds a stop string in sequence 0 after so many tokens."""


@dataclass(frozen=True)
class Traffic:
    visits: list[Visit]
    max_rows: int
    num_blocks: int
    budget: int
    max_block_moves: int


def sampling_params(vocab_size: int) -> st.SearchStrategy[SamplingParams]:
    """Half of the requests plain (greedy or by temperature), the rest with anything set."""
    token = st.integers(0, vocab_size - 1)
    plain: dict[str, Any] = {
        "max_tokens": st.sampled_from([1, 6, 15, 30, 45, 60]),
        "temperature": st.sampled_from([0.0, 0.0, 0.7, 1.0]),
        "seed": st.integers(0, 2**64 - 1),
        "ignore_eos": st.booleans(),
    }
    rich = plain | {
        "temperature": st.sampled_from([0.0, 0.5, 1.0, 1.5]),
        "top_k": st.sampled_from([0, 1, 4, 50]),
        "top_p": st.sampled_from([1.0, 0.95, 0.5]),
        "min_p": st.sampled_from([0.0, 0.0, 0.05]),
        "repetition_penalty": st.sampled_from([1.0, 1.2, 0.9]),
        "presence_penalty": st.sampled_from([0.0, 0.5]),
        "frequency_penalty": st.sampled_from([0.0, 0.4, -0.2]),
        "min_tokens": st.just(0),
        "stop_token_ids": st.lists(token, max_size=3).map(tuple),
        "logprobs": st.sampled_from([-1, 0, 3]),
        "cumulative_logprob": st.booleans(),
        "logit_bias": st.dictionaries(token, st.floats(-5, 5), max_size=3),
        "n": st.sampled_from([1, 1, 2, 3]),
    }
    masked = rich | {"max_tokens": st.sampled_from([8, 25, 60]), "min_tokens": st.sampled_from([1, 3, 8])}
    return st.one_of(*(st.builds(SamplingParams, **keys) for keys in (plain, plain, rich, masked)))


@st.composite
def traffics(draw: st.DrawFn, vocab_size: int, num_requests: tuple[int, ...] = (2, 5, 8)) -> Traffic:
    visits = []
    for key in range(draw(st.sampled_from(num_requests))):
        params = draw(sampling_params(vocab_size))
        length = draw(st.sampled_from([1, 7, 8, 9, 20, 40, 60]))
        source = random.Random(draw(st.integers(0, 2**32)))
        prompt = [source.randrange(vocab_size) for _ in range(length)]
        arrival = draw(st.sampled_from([0, 0, 1, 4, 12, 30]))
        deadline = draw(st.sampled_from([None] * 12 + [arrival + 25.0]))
        visits.append(
            Visit(
                make_request(key, prompt, params, deadline),
                arrival,
                draw(st.sampled_from([None] * 15 + [arrival, arrival + 3, arrival + 15])),
                draw(st.sampled_from([None] * 12 + [1, 5])),
            )
        )
    return Traffic(
        visits,
        max_rows=draw(st.sampled_from([3, 5, 8])),
        num_blocks=draw(st.sampled_from([15, 16, 18, 24, 150])),
        budget=draw(st.sampled_from([3, 7, 16, 50, 512])),
        max_block_moves=draw(st.sampled_from([1, 3, 32])),
    )


def shortage(vocab_size: int) -> Traffic:
    """Four long requests, the last twofold, where hardly two fit: rows are preempted whatever is drawn elsewhere.

    Hypothesis's draws depend on which modules are loaded, `derandomize` or not: it mixes in the constants it finds.
    """
    source = random.Random(1)
    visits = []
    for key in range(4):
        prompt = [source.randrange(vocab_size) for _ in range(60)]
        params = SamplingParams(max_tokens=60, temperature=0.7, seed=key, ignore_eos=True, n=1 + key // 3)
        visits.append(Visit(make_request(key, prompt, params), arrival=0))
    return Traffic(visits, max_rows=5, num_blocks=24, budget=50, max_block_moves=3)


def _held_blocks(engine: Engine) -> dict[int, list[int]]:
    """By row, as the plan just made assumes; entries behind a row's blocks may be anything."""
    scheduler = engine.scheduler
    seated = enumerate(scheduler._rows._slots)
    return {row: list(scheduler._tables[sequence.uid]) for row, sequence in seated if sequence is not None}


class Backbone:
    """Runs traffic through a model and adds up what happened in `seen`."""

    def __init__(self, model: Model, make: Callable[..., Engine] = make_engine, alone: Model | None = None) -> None:
        """`make` builds the engine under test around `model`; lone runs are the plain engine's, on `alone` if given."""
        self.model = model
        self.alone = alone or model
        self.seen: Counter[str] = Counter()
        self._make = make
        self._lone: dict[str, list[Sequence]] = {}

    def check(self, traffic: Traffic, reorder: str, pipeline_depth: int) -> None:
        """Every request's tokens equal those of its lone run, or stop at a near tie of that run."""
        collector, accepted = self._run(traffic, reorder, pipeline_depth)
        for visit in accepted:
            key = visit.request.key
            self.seen["requests"] += 1
            near_tie = False
            for got, alone in zip(collector.sequences[key], self._run_alone(visit.request), strict=True):
                near_tie |= self._compare(got, alone, collector.ended.get(key))
            self.seen["near ties"] += near_tie

    def _run_alone(self, request: Request) -> list[Sequence]:
        """Once for each prompt with its parameters: every mode is given the same traffic, and nothing else counts."""
        asked = repr((request.prompt_ids, request.params))
        if asked not in self._lone:
            self._lone[asked] = run_alone(self.alone, request)
        return self._lone[asked]

    def _run(self, traffic: Traffic, reorder: str, pipeline_depth: int) -> tuple[Collector, list[Visit]]:
        now = [0.0]
        engine = self._make(
            self.model,
            max_rows=traffic.max_rows,
            max_model_len=MAX_LEN,
            block_size=BLOCK,
            num_blocks=traffic.num_blocks,
            reorder=reorder,
            budget=traffic.budget,
            pipeline_depth=pipeline_depth,
            max_block_moves=traffic.max_block_moves,
            clock=lambda: now[0],
        )
        plans: list[tuple[Plan, dict[int, list[int]]]] = []

        def watch(plan: Plan) -> None:
            if reorder == "compact" and not plan.block_moves:
                assert engine.scheduler.allocator.is_packed, "the used blocks are no prefix and none is moved"
            plans.append((plan, _held_blocks(engine)))

        engine.runner.watch = watch
        collector, accepted = Collector(), []
        stops = {v.request.key: v.stop_after for v in traffic.visits if v.stop_after is not None}
        last = max(visit.arrival for visit in traffic.visits)
        for step in range(MAX_STEPS):
            if step > last and not engine.has_work:
                break
            now[0] = float(step)
            accepted += [v for v in traffic.visits if v.arrival == step and self._add(engine, collector, v)]
            for visit in traffic.visits:
                if visit.cancel_at == step:
                    engine.cancel(visit.request.key)
            for key, count in list(stops.items()):
                if key in collector.sequences and len(collector.sequences[key][0].token_ids) >= count:
                    engine.finish(key, 0, stops.pop(key))
            collector.take(engine.step())
            self._check_step(engine, *plans[-1], reorder)
        assert not engine.has_work, f"still working after {MAX_STEPS} steps"
        assert engine.gauges.used_blocks == 0, "blocks leaked"
        engine.check_integrity()
        self.seen["preemptions"] += engine.scheduler.counters.preemptions
        return collector, accepted

    def _add(self, engine: Engine, collector: Collector, visit: Visit) -> bool:
        try:
            engine.add(visit.request)
        except DoesNotFit:
            self.seen["refused"] += 1
            return False
        collector.expect(visit.request)
        return True

    def _check_step(self, engine: Engine, plan: Plan, held: dict[int, list[int]], reorder: str) -> None:
        engine.check_integrity()
        if plan.is_empty:
            return
        self.seen["fused iterations"] += len(plan.decode_rows) > 1
        self.seen["mixed iterations"] += bool(plan.decode_rows and plan.chunks)
        self.seen["chunked prompts"] += any(not chunk.samples for chunk in plan.chunks)
        for name in ("row_moves", "block_moves", "forks", "block_copies", "idle_rows"):
            self.seen[name] += len(getattr(plan, name))
        state = engine.runner.state
        live = [row for row, params in enumerate(state.params) if params is not None]
        if reorder != "none":
            assert live == list(range(plan.num_rows)), "the live rows are not a prefix"
        if state.block_table.is_cuda:
            if reorder != "compact":
                return  # looking would hold up the device: iterations must overlap here as they do in service
            torch.cuda.synchronize()  # the runner writes it on a stream of its own
        table = state.block_table.tolist()
        assert {row: table[row][: len(blocks)] for row, blocks in held.items()} == held, "not a row's own blocks"

    def _compare(self, got: Sequence, alone: Sequence, ended: FinishReason | None) -> bool:
        """True when the comparison stopped at a near tie."""
        cut = ended is not None or got.finish is FinishReason.DEADLINE
        stopped = got.finish is FinishReason.STOP and len(got.token_ids) < len(alone.token_ids)
        self.seen["cut short"] += cut or stopped
        for i, (token, expected) in enumerate(zip(got.token_ids, alone.token_ids, strict=False)):
            if token != expected:
                assert alone.margins[i] < NEAR_TIE, (
                    f"token {i} is {token}, alone it is {expected} with a margin of {alone.margins[i]}"
                )
                return True
        self.seen["tokens"] += len(got.token_ids)
        assert len(got.token_ids) <= len(alone.token_ids)
        if not cut and not stopped:
            assert len(got.token_ids) == len(alone.token_ids)
            assert got.finish == alone.finish
        for mine, theirs in zip(got.logprobs, alone.logprobs, strict=False):
            assert abs(mine.logprob - theirs.logprob) < 1e-3
            assert len(mine.top) == len(theirs.top)
        return False
