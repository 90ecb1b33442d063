"""What the engine's parts promise each other. Implemented in engine/engine.py and engine/runner.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from flover_backend.request import FinishReason, Request
from flover_backend.scheduler.plan import Plan, StepResult, TokenLogprobs


@dataclass(frozen=True, slots=True)
class SequenceUpdate:
    """A token (or the end) of one sequence of a request, as `Engine.step` hands it to the process around it."""

    key: int
    index: int
    """Which of the request's n sequences, 0 .. n-1."""
    token_ids: tuple[int, ...]
    """Usually one; empty when a sequence ends without a new token (deadline)."""
    logprobs: tuple[TokenLogprobs, ...] = ()
    finish: FinishReason = FinishReason.NONE


@dataclass(frozen=True, slots=True)
class RequestEnded:
    """A request that ends as a whole without a further token: cancelled, or expired before its first token."""

    key: int
    reason: FinishReason
    message: str


class Runner(Protocol):
    """Applies plans to the device."""

    pipeline_depth: int
    """0: `run` returns this plan's result. 1: the previous plan's (None the first time)."""

    def run(self, plan: Plan) -> StepResult | None:
        """Launch `plan`; return the result of plan `plan.step - pipeline_depth`, None where there is none."""
        ...


class EngineCore(Protocol):
    """The engine without its process: what tests, benchmarks and engine/process drive."""

    def add(self, request: Request) -> None:
        """Queue a request. Raises `QueueFull` (with the depth) or `DoesNotFit`; then nothing has changed."""
        ...

    def cancel(self, key: int) -> None:
        """End a request at the next iteration boundary. Unknown keys are ignored (it has just finished)."""
        ...

    def finish(self, key: int, index: int, num_tokens: int) -> None:
        """The front found a stop string in sequence `index` after `num_tokens` tokens: end it with STOP."""
        ...

    def step(self) -> list[SequenceUpdate | RequestEnded]:
        """Run one iteration: plan, run, commit."""
        ...

    @property
    def has_work(self) -> bool:
        """True while any request is queued, running or in flight."""
        ...
