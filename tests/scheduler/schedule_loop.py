"""A scheduler and a simulated device in one loop, and everything that must hold at each of its steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from device import EOS, VOCAB_SIZE, SimulatedDevice, lone_run, mix

from flover_backend.engine.interface import RequestEnded, SequenceUpdate
from flover_backend.request import FinishReason, Request, SamplingParams
from flover_backend.scheduler.config import SchedulerConfig
from flover_backend.scheduler.plan import Plan
from flover_backend.scheduler.scheduler import Scheduler

EARLY = (FinishReason.CANCELLED, FinishReason.DEADLINE)


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def make_config(**changes) -> SchedulerConfig:
    """A small engine; any field can be changed."""
    defaults = dict(
        max_rows=4, max_model_len=64, block_size=4, num_blocks=64, prefill_token_budget=64, eos_token_ids=(EOS,)
    )
    return SchedulerConfig(**{**defaults, **changes})


def make_request(key: int, num_prompt: int = 5, deadline: float | None = None, **params) -> Request:
    """A request whose prompt nobody else has: its marks are its own."""
    prompt = [key * 1000 + 7, *(mix(key, i) % VOCAB_SIZE for i in range(1, num_prompt))]
    params = {"max_tokens": 6, "seed": mix(key), "ignore_eos": True, **params}
    return Request(key=key, prompt_ids=prompt, params=SamplingParams(**params), arrival_time=0.0, deadline=deadline)


@dataclass
class Received:
    """What came back for one request."""

    request: Request
    tokens: list[list[int]]
    finish: list[FinishReason]
    ended: RequestEnded | None = None
    stops: dict[int, int] = field(default_factory=dict)
    """Sequence -> num_tokens of a `finish` that was given while it ran."""

    @property
    def num_retracted(self) -> int:
        """Tokens received after those that a `finish` let stand."""
        ended = [index for index in self.stops if self.finish[index] is FinishReason.STOP]
        return sum(len(self.tokens[index]) - self.stops[index] for index in ended)

    @property
    def is_over(self) -> bool:
        return self.ended is not None or FinishReason.NONE not in self.finish


class Loop:
    """`plan`, `run`, `commit`, with the invariants checked at each step."""

    def __init__(self, config: SchedulerConfig) -> None:
        self.config = config
        self.clock = config.clock
        self.scheduler = Scheduler(config)
        self.device = SimulatedDevice(
            config.num_blocks,
            config.block_size,
            config.max_rows,
            config.max_model_len,
            config.reorder,
            config.pipeline_depth,
        )
        self.received: dict[int, Received] = {}
        self.started: list[int] = []
        self.plans: list[Plan] = []
        self.before_commit: Callable[[], None] | None = None
        """Done once, between plan and commit of the next step."""

    def add(self, request: Request) -> None:
        """Queue a request and expect its answers."""
        self.scheduler.add(request)
        n = request.params.n
        self.received[request.key] = Received(request, [[] for _ in range(n)], [FinishReason.NONE] * n)

    def finish(self, key: int, index: int, num_tokens: int) -> None:
        """A stop string after `num_tokens` tokens of those received so far."""
        received = self.received[key]
        assert 0 < num_tokens <= len(received.tokens[index])
        if received.finish[index] is FinishReason.NONE and received.ended is None:
            received.stops.setdefault(index, num_tokens)
        self.scheduler.finish(key, index, num_tokens)

    def step(self) -> list[SequenceUpdate | RequestEnded]:
        """One iteration, checked."""
        plan = self.scheduler.plan()
        self.plans.append(plan)
        self._check_plan(plan)
        result = self.device.run(plan)
        action, self.before_commit = self.before_commit, None
        if action is not None:
            action()
        events = self.scheduler.commit(result)
        self.scheduler.check_integrity()
        for event in events:
            self._receive(event)
        return events

    def run(self, max_steps: int = 10_000) -> None:
        """Until there is no work left; then nothing may be held and every request must be over."""
        while self.scheduler.has_work:
            assert len(self.plans) < max_steps, "no progress"
            self.step()
        self.check_idle()

    def check_idle(self) -> None:
        """No work: nothing is held, everything was answered."""
        assert self.scheduler.allocator.num_used == 0
        assert self.scheduler.num_running_rows == self.scheduler.num_waiting_requests == 0
        for key, received in self.received.items():
            assert received.is_over, f"request {key} never ended"

    def check_against_lone_runs(self) -> None:
        """Every request has the tokens of its lone run, all of them or, ended from outside, a prefix."""
        for received in self.received.values():
            for index, tokens in enumerate(received.tokens):
                expected, reason = lone_run(
                    received.request, index, self.config.max_model_len, self.config.eos_token_ids
                )
                finish = received.finish[index] if received.ended is None else received.ended.reason
                if finish in EARLY or index in received.stops:
                    assert tokens == expected[: len(tokens)]
                else:
                    assert (tokens, finish) == (expected, reason)

    def _check_plan(self, plan: Plan) -> None:
        stats = self.scheduler.last_plan
        assert stats is not None and stats.step == plan.step == len(self.plans) - 1
        self.started += stats.started_keys
        assert self.started == sorted(self.started), "a later arrival overtook an earlier one"
        assert stats.prefill_tokens <= self.config.prefill_budget(len(plan.decode_rows))
        assert sum(not chunk.samples for chunk in plan.chunks) <= 1, "more than one prompt is half done"
        assert len(plan.block_moves) <= self.config.max_block_moves
        if self.config.reorder != "compact":
            assert not plan.block_moves
        elif len(plan.block_moves) < self.config.max_block_moves:
            assert self.scheduler.allocator.is_packed, "holes below the highest used block, yet no moves are pending"

    def _receive(self, event: SequenceUpdate | RequestEnded) -> None:
        received = self.received[event.key]
        assert not received.is_over, f"{event} came after the end of its request"
        if isinstance(event, RequestEnded):
            assert event.reason in EARLY
            assert event.reason is FinishReason.CANCELLED or not any(received.tokens)
            received.ended = event
            return
        assert received.finish[event.index] is FinishReason.NONE, f"{event} came after the end of its sequence"
        assert event.token_ids or event.finish in (FinishReason.DEADLINE, FinishReason.STOP)
        if received.request.params.logprobs >= 0:
            assert [p.logprob for p in event.logprobs] == [-float(t) for t in event.token_ids]
        received.tokens[event.index] += event.token_ids
        received.finish[event.index] = event.finish
