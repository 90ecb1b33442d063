"""The engine without its process: one iteration is plan, run, commit."""

from __future__ import annotations

import time

from flover_backend.channel import Iteration
from flover_backend.engine.allowance import Allowance
from flover_backend.engine.interface import EngineGauges, RequestEnded, Runner, SequenceUpdate, StepStats
from flover_backend.engine.pacing import Pacer
from flover_backend.engine.ranges import phase
from flover_backend.request import Request
from flover_backend.scheduler.plan import Plan
from flover_backend.scheduler.scheduler import Scheduler


class Engine:
    """`EngineCore` (engine/interface.py): owns one scheduler and one runner, whose limits agree. One thread."""

    def __init__(self, scheduler: Scheduler, runner: Runner) -> None:
        self.scheduler = scheduler
        self.runner = runner
        self.last_stats: StepStats | None = None
        self._pacer = Pacer()
        self._allowance = Allowance(runner.model)

    def step(self) -> list[SequenceUpdate | RequestEnded]:
        """Run one iteration."""
        started = time.monotonic()
        self._pacer.planning()
        with phase("plan"):
            plan = self.scheduler.plan()
        self._allowance.planned(plan)
        with phase("run"):
            result = self.runner.run(plan)
        self._pacer.launched(plan, self.runner.waited_seconds)
        with phase("commit"):
            updates = self.scheduler.commit(result)
        self._allowance.ended(time.monotonic() - started)
        self.last_stats = None if plan.is_empty else self._stats(plan, started)
        return updates

    def add(self, request: Request, *, again: bool = False) -> None:
        """Queue a request. Raises `QueueFull`, `DoesNotFit` or `InvalidRequest`; then nothing has changed.

        `again`: it was accepted before, by an engine that died: a full queue takes it too.
        """
        self.scheduler.add(request, again=again)

    def cancel(self, key: int) -> None:
        """End a request at the next iteration boundary. Unknown keys are ignored."""
        self.scheduler.cancel(key)

    def finish(self, key: int, index: int, num_tokens: int) -> None:
        """A stop string ended sequence `index` after `num_tokens` tokens."""
        self.scheduler.finish(key, index, num_tokens)

    def check_integrity(self) -> None:
        """Raise AssertionError with a sentence when blocks or rows do not add up."""
        self.scheduler.check_integrity()

    @property
    def has_work(self) -> bool:
        """True while any request is queued, running or in flight."""
        return self.scheduler.has_work

    @property
    def allowed_seconds(self) -> float:
        """How long the present `step` may take until it is called a hang."""
        return self._allowance.seconds

    @property
    def unanswered_keys(self) -> tuple[int, ...]:
        """Requests that have a row and no token yet."""
        return self.scheduler.unanswered_keys

    @property
    def plan_due(self) -> float:
        """Monotonic time before which nothing is gained by `step`."""
        return 0.0 if self.runner.is_done else self._pacer.due

    @property
    def gauges(self) -> EngineGauges:
        """As of now."""
        scheduler, kv = self.scheduler, self.runner.kv
        return EngineGauges(
            num_running=scheduler.num_running_requests,
            num_waiting=scheduler.num_waiting_requests,
            num_waiting_tokens=scheduler.num_queued_tokens,
            used_blocks=scheduler.allocator.num_used,
            free_blocks=scheduler.allocator.num_free,
            most_used_blocks=scheduler.allocator.high_water_mark,
            kv_bytes_mapped=kv.num_bytes,
        )

    def _stats(self, plan: Plan, started: float) -> StepStats:
        planned = self.scheduler.last_plan
        assert planned is not None and planned.step == plan.step
        iteration = Iteration(
            step=plan.step,
            time=started,
            seconds=time.monotonic() - started,
            num_rows=planned.num_rows,
            num_live=planned.num_live,
            decode_tokens=planned.decode_tokens,
            prefill_tokens=planned.prefill_tokens,
            joins=planned.joins,
            leaves=planned.leaves,
            row_moves=planned.row_moves,
            block_moves=planned.block_moves,
            num_waiting=self.scheduler.num_waiting_requests,
            free_blocks=self.scheduler.allocator.num_free,
        )
        return StepStats(
            iteration,
            planned.started_keys,
            planned.preemptions,
            self.runner.bytes_moved,
            self.runner.take_reorder_seconds(),
        )
