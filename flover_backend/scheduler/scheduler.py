"""Decides each iteration: who joins, who prefills, who decodes, who is preempted, what moves.

Pure bookkeeping, no device code. `plan` may run `pipeline_depth` plans ahead of `commit`; blocks and rows that a
request gives back are used again by the next plan, because a device applies plans in order.
Every method may be called at any time between `plan` and `commit` too, from one thread.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass

from flover_backend.engine.interface import RequestEnded, SequenceUpdate
from flover_backend.errors import InvalidRequest
from flover_backend.kv.blocks import BlockAllocator
from flover_backend.kv.compaction import compact
from flover_backend.kv.tables import BlockTables
from flover_backend.request import FinishReason, Request
from flover_backend.scheduler.admission import Residents, check_request
from flover_backend.scheduler.config import SchedulerConfig
from flover_backend.scheduler.decode import Decode
from flover_backend.scheduler.draft import Draft, assemble
from flover_backend.scheduler.ending import finish_reason
from flover_backend.scheduler.integrity import check_in_flight, check_order, check_states
from flover_backend.scheduler.plan import Plan, StepResult, TokenLogprobs
from flover_backend.scheduler.prefill import Prefill
from flover_backend.scheduler.queue import WaitingQueue
from flover_backend.scheduler.rows import RowMap
from flover_backend.scheduler.sequence import RequestGroup, Sequence, SequenceState
from flover_backend.scheduler.stats import Counters, PlanStats

_MESSAGES = {
    FinishReason.CANCELLED: "the request was cancelled",
    FinishReason.DEADLINE: "deadline_ms passed before the first token",
}


@dataclass(frozen=True, slots=True)
class _InFlight:
    """A plan whose result is not committed: who gets its tokens."""

    step: int
    sampled: list[Sequence]


class Scheduler:
    """`add`, `cancel`, `finish` from outside; `plan` and `commit` once an iteration."""

    def __init__(self, config: SchedulerConfig) -> None:
        self.config = config
        self.counters = Counters()
        self.last_plan: PlanStats | None = None
        """Of the latest plan; None while nothing was planned."""
        self.allocator = BlockAllocator(config.num_blocks)
        self._tables = BlockTables(self.allocator)
        self._rows = RowMap(config.max_rows, config.reorder)
        self._residents = Residents(config, self._tables, self._rows)
        self._queue = WaitingQueue(config.max_queued_requests, config.max_queued_tokens)
        self._decode = Decode(config, self._tables, self._queue, self._residents)
        self._prefill = Prefill(config, self._queue, self._residents)
        self._groups: dict[int, RequestGroup] = {}
        self._deadlines: list[tuple[float, int]] = []
        self._events: list[SequenceUpdate | RequestEnded] = []
        self._in_flight: deque[_InFlight] = deque()
        self._next_uid = 0
        self._step = 0
        self._num_leaves_before = 0

    # From outside

    def add(self, request: Request, *, again: bool = False) -> None:
        """Queue a request. Raises `DoesNotFit`, `InvalidRequest` or `QueueFull`; then nothing has changed.

        `again`: it was accepted before; a full queue takes it too.
        """
        check_request(request, self.config)
        if request.key in self._groups:
            raise InvalidRequest(f"key: {request.key} is a live request's already; give each request a key of its own")
        if not again:
            self._queue.check_room(len(request.prompt_ids))
        group = RequestGroup(request, self._next_uid)
        self._next_uid += len(group.sequences)
        self._groups[request.key] = group
        self._queue.append(group)
        if request.deadline is not None:
            heapq.heappush(self._deadlines, (request.deadline, request.key))

    def cancel(self, key: int) -> None:
        """End a request; its rows and blocks are free for the next plan. Unknown keys are ignored."""
        if key in self._groups:
            self._end_request(self._groups[key], FinishReason.CANCELLED)

    def finish(self, key: int, index: int, num_tokens: int) -> None:
        """A stop string ended sequence `index` after `num_tokens` tokens; what came after them does not count.

        Ignored for a sequence that is over already, or has no token yet.
        """
        group = self._groups.get(key)
        sequence = group.sequences[index] if group is not None and 0 <= index < len(group.sequences) else None
        if sequence is not None and sequence.output_ids and sequence.state is not SequenceState.FINISHED:
            self.counters.retracted_tokens += max(0, len(sequence.output_ids) - max(0, num_tokens))
            self._end_sequence(sequence)
            self._events.append(SequenceUpdate(key, index, (), finish=FinishReason.STOP))

    def expire(self, now: float) -> None:
        """End the requests whose deadline is at or before `now`: with what there is, if they have a token."""
        while self._deadlines and self._deadlines[0][0] <= now:
            _, key = heapq.heappop(self._deadlines)
            group = self._groups.get(key)
            if group is not None and group.request.deadline is not None and group.request.deadline <= now:
                self._expire(group)

    # Once an iteration

    def plan(self) -> Plan:
        """Decide the next iteration. An empty plan (nothing to compute) changes nothing on the device."""
        self.expire(self.config.clock())
        draft = Draft()
        self._decode.release_exhausted()
        self._decode.schedule(draft)
        self._prefill.schedule(draft)
        if self.config.reorder == "compact":
            draft.block_moves = compact(self._tables, self.config.max_block_moves)
        plan = Plan(self._step, 0)
        if not draft.is_empty:
            plan = assemble(draft, self._step, self._rows, self._tables, self.config.block_size)
        self._in_flight.append(_InFlight(self._step, draft.sampled()))
        self._step += 1
        self._count(plan, draft)
        return plan

    def commit(self, result: StepResult | None) -> list[SequenceUpdate | RequestEnded]:
        """Take the oldest plan's result, None while there is none; everything to tell since the commit before."""
        events, self._events = self._events, []
        sampled = self._take_sampled(result)
        for entry, sequence in enumerate(sampled):
            assert result is not None
            sequence.num_in_flight -= 1
            if sequence.state is SequenceState.FINISHED:
                self.counters.wasted_tokens += 1
                continue
            logprobs = result.logprobs.get(entry)
            events.append(self._accept(sequence, result.token_ids[entry], () if logprobs is None else (logprobs,)))
        self.counters.leaves = self._rows.num_leaves
        return events

    @property
    def has_work(self) -> bool:
        """True while any request is queued or running, a result is in flight or something is to be told."""
        return bool(self._groups or self._events or any(flight.sampled for flight in self._in_flight))

    @property
    def num_running_rows(self) -> int:
        """Rows that sequences hold or have reserved."""
        return self._residents.rows_in_use

    @property
    def num_waiting_requests(self) -> int:
        """Requests without a row: never admitted, or all their unfinished sequences preempted."""
        preempted = {entry.group.key: entry.group for entry in self._queue.preempted()}
        return self._queue.num_new + sum(not group.is_active for group in preempted.values())

    @property
    def num_running_requests(self) -> int:
        """Requests that are neither waiting nor over."""
        return len(self._groups) - self.num_waiting_requests

    @property
    def unanswered_keys(self) -> tuple[int, ...]:
        """Requests that compute and have no token yet. RuntimeError when another thread asks at a bad moment."""
        return tuple(key for key, group in self._groups.items() if group.is_active and not group.has_output)

    @property
    def num_queued_requests(self) -> int:
        """Requests never admitted: what max_queued_requests bounds."""
        return self._queue.num_new

    @property
    def num_queued_tokens(self) -> int:
        """Their prompt tokens: what max_queued_tokens bounds."""
        return self._queue.num_tokens

    def check_integrity(self) -> None:
        """Raise `IntegrityError` (an AssertionError) with a sentence when blocks, rows or requests do not add up."""
        self._tables.check_integrity()
        self._residents.check_integrity()
        residents = [s for resident in self._residents.in_order() for s in resident.group.unit_of(resident)]
        self._rows.check_integrity(residents)
        check_order(self._residents, self._queue)
        check_states(self._groups.values(), self._residents, self._queue)
        check_in_flight(self._groups.values(), [flight.sampled for flight in self._in_flight])

    def _count(self, plan: Plan, draft: Draft) -> None:
        num_leaves = self._rows.num_leaves
        stats = PlanStats(
            step=plan.step,
            num_rows=plan.num_rows,
            num_live=plan.num_rows - len(plan.idle_rows),
            decode_tokens=len(plan.decode_rows),
            prefill_tokens=sum(piece.length for piece in draft.pieces),
            prompt_tokens=sum(len(p.sequence.group.prompt_ids) for p in draft.pieces if p.ends_first_prefill),
            joins=len(plan.joins),
            leaves=num_leaves - self._num_leaves_before,
            row_moves=len(plan.row_moves),
            block_moves=len(plan.block_moves),
            preemptions=draft.preemptions,
            started_keys=tuple(draft.started_keys),
        )
        self._num_leaves_before = num_leaves
        self.counters.add_plan(stats)
        self.last_plan = stats

    # Results and endings

    def _take_sampled(self, result: StepResult | None) -> list[Sequence]:
        """Who gets the result's tokens. Raises ValueError for a result that is not the oldest plan's."""
        if len(self._in_flight) <= self.config.pipeline_depth:
            if result is not None:
                raise ValueError(f"result of step {result.step} came while {len(self._in_flight)} plans are in flight")
            return []
        flight = self._in_flight[0]
        step, num_tokens = (flight.step, 0) if result is None else (result.step, len(result.token_ids))
        if (step, num_tokens) != (flight.step, len(flight.sampled)):
            raise ValueError(
                f"result of step {step} with {num_tokens} tokens given; due is step {flight.step} "
                f"with {len(flight.sampled)} tokens"
            )
        self._in_flight.popleft()
        return flight.sampled

    def _accept(self, sequence: Sequence, token: int, logprobs: tuple[TokenLogprobs, ...]) -> SequenceUpdate:
        sequence.output_ids.append(token)
        self.counters.generated_tokens += 1
        reason = finish_reason(sequence, self.config.eos_token_ids)
        if reason is not FinishReason.NONE:
            self._end_sequence(sequence)
        return SequenceUpdate(sequence.group.key, sequence.index, (token,), logprobs, reason)

    def _expire(self, group: RequestGroup) -> None:
        if not group.has_output:
            self._end_request(group, FinishReason.DEADLINE)
            return
        for sequence in group.sequences:
            if sequence.state is not SequenceState.FINISHED:
                self._end_sequence(sequence)
                self._events.append(SequenceUpdate(group.key, sequence.index, (), finish=FinishReason.DEADLINE))

    def _end_request(self, group: RequestGroup, reason: FinishReason) -> None:
        for sequence in group.sequences if group.forked else [group.parent]:
            self._withdraw(sequence)
        for sequence in group.sequences:
            sequence.state = SequenceState.FINISHED
        group.num_unfinished = 0
        self._forget(group)
        self._events.append(RequestEnded(group.key, reason, _MESSAGES[reason]))

    def _end_sequence(self, sequence: Sequence) -> None:
        """End one sequence of a forked request; the request with its last one."""
        self._withdraw(sequence)
        sequence.state = SequenceState.FINISHED
        sequence.group.num_unfinished -= 1
        if not sequence.group.num_unfinished:
            self._forget(sequence.group)

    def _withdraw(self, sequence: Sequence) -> None:
        """Out of the batch or the queue, wherever it is."""
        if sequence in self._residents:
            self._residents.release(sequence)
        elif sequence.state in (SequenceState.WAITING, SequenceState.PREEMPTED):
            self._queue.remove(sequence)

    def _forget(self, group: RequestGroup) -> None:
        del self._groups[group.key]
        if len(self._deadlines) > 2 * len(self._groups) + 64:
            self._deadlines = [entry for entry in self._deadlines if entry[1] in self._groups]
            heapq.heapify(self._deadlines)
