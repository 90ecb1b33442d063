"""What the engine's parts promise each other. Implemented in engine/engine.py, engine/runner.py and engine/load.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from flover_backend.channel import EngineInfo, Iteration
from flover_backend.config import ModelJson
from flover_backend.request import FinishReason, Request
from flover_backend.scheduler.plan import Plan, StepResult, TokenLogprobs

if TYPE_CHECKING:
    from flover_backend.kv.buffer import KVBuffer
    from flover_backend.models.batch import Model


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


@dataclass(frozen=True, slots=True)
class StepStats:
    """What one iteration did besides its tokens: the ring keeps `iteration`, the metrics add up the rest."""

    iteration: Iteration
    started_keys: tuple[int, ...] = ()
    """Requests that got a row for the first time (not again after a preemption): their queue time ends here."""
    preemptions: int = 0
    bytes_moved: int = 0
    """Bytes of row state and KV that the reorder step moved."""
    reorder_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class EngineGauges:
    """The engine's state at an iteration boundary. A preempted request counts as waiting."""

    num_running: int
    num_waiting: int
    num_waiting_tokens: int
    used_blocks: int
    free_blocks: int
    most_used_blocks: int
    """Most blocks in use at once since the start, within an iteration too."""
    kv_bytes_mapped: int


class Runner(Protocol):
    """Applies plans to the device."""

    model: Model
    kv: KVBuffer
    pipeline_depth: int
    """0: `run` returns this plan's result. 1: the previous plan's (None the first time)."""

    @property
    def bytes_moved(self) -> int:
        """By the latest plan's reorder step."""
        ...

    @property
    def is_done(self) -> bool:
        """Nothing runs on the device."""
        ...

    @property
    def waited_seconds(self) -> float | None:
        """How long the latest `run` waited, after its launch, for the result it returned; None: it launches nothing
        ahead, or returned none."""
        ...

    def take_reorder_seconds(self) -> float:
        """How long the reorder steps took that ended since this was asked before."""
        ...

    def run(self, plan: Plan) -> StepResult | None:
        """Launch `plan`; return the result of plan `plan.step - pipeline_depth`, None where there is none."""
        ...


class EngineCore(Protocol):
    """The engine without its process: what tests, benchmarks and engine/process drive."""

    def add(self, request: Request, *, again: bool = False) -> None:
        """Queue a request. Raises `QueueFull` (with the depth) or `DoesNotFit`; then nothing has changed.

        `again`: it was accepted before, by an engine that died: a full queue takes it too.
        """
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

    def check_integrity(self) -> None:
        """Raise AssertionError with a sentence when blocks or rows leaked. Called whenever the engine falls idle."""
        ...

    @property
    def last_stats(self) -> StepStats | None:
        """Of the latest `step`; None when its plan was empty (nothing was computed)."""
        ...

    @property
    def allowed_seconds(self) -> float:
        """How long the present `step` may take until it is called a hang. Read by another thread, too."""
        ...

    @property
    def unanswered_keys(self) -> tuple[int, ...]:
        """Requests that have a row and no token yet: one of them may be why a step fails or hangs.

        Another thread may ask; RuntimeError when it asks at a bad moment.
        """
        ...

    @property
    def plan_due(self) -> float:
        """Monotonic time before which nothing is gained by `step`, while there is work; in the past: step now."""
        ...

    @property
    def gauges(self) -> EngineGauges:
        """As of now; cheap."""
        ...

    @property
    def has_work(self) -> bool:
        """True while any request is queued, running or in flight."""
        ...


class LoadEngine(Protocol):
    """`flover_backend.engine.load.load_engine`: builds the core in the engine process (tests pass a fake one)."""

    def __call__(
        self, config: ModelJson, model_dir: Path, progress: Callable[[str, float], None]
    ) -> tuple[EngineCore, EngineInfo]:
        """Load and warm up; `progress(stage, fraction)` may be called at any time.

        `front_number` and `pid` of the returned info are 0: the process fills them in for each front.
        Raises `ConfigError` for what an operator can mend.
        """
        ...
