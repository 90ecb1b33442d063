"""Which prompts, or pieces of prompts, run in an iteration: oldest first, under a budget of tokens.

Several prompts are packed into one iteration; one that is longer than what is left of the budget is split and goes on
in the next iteration before anything new starts. So at most one prompt is ever half done, and each iteration
continues it.
"""

from __future__ import annotations

from flover_backend.scheduler.admission import Residents
from flover_backend.scheduler.config import SchedulerConfig
from flover_backend.scheduler.draft import Draft, Piece
from flover_backend.scheduler.queue import WaitingQueue
from flover_backend.scheduler.sequence import RequestGroup, Sequence, SequenceState


class Prefill:
    """Adds pieces, joins and forks to a draft, admitting from the queue in strict arrival order."""

    def __init__(self, config: SchedulerConfig, queue: WaitingQueue, residents: Residents) -> None:
        self._config = config
        self._queue = queue
        self._residents = residents

    def schedule(self, draft: Draft) -> None:
        """Fill the budget beside `draft.decodes`. Who was preempted for these needs more blocks than it gave back."""
        half_done = self._half_done()
        if half_done is None and self._queue.head() is None:
            return
        num_rows, num_kv_tokens = len(draft.decodes), sum(sequence.num_computed for sequence in draft.decodes)
        budget = self._config.prefill_budget(num_rows, num_kv_tokens, half_done.num_computed if half_done else 0)
        spare = budget - self._config.split_budget(num_rows, budget) if self._config.split_budget else 0
        if half_done is not None:
            budget -= self._advance(half_done, budget, spare, draft)
        while budget > spare:
            sequence = self._admit_next(draft)
            if sequence is None:
                break
            budget -= self._advance(sequence, budget, spare, draft)

    def _half_done(self) -> Sequence | None:
        newest = self._residents.newest() if len(self._residents) else None
        return newest if newest is not None and newest.state is SequenceState.PREFILL else None

    def _admit_next(self, draft: Draft) -> Sequence | None:
        """The head of the queue, if it fits now; nobody overtakes it.

        A preempted one whose last token is still in flight (pipeline depth 1) cannot start: it would not know it.
        """
        sequence = self._queue.head()
        if sequence is None or sequence.num_in_flight or not self._residents.can_admit(sequence):
            return None
        if sequence.state is SequenceState.WAITING:
            draft.started_keys.append(sequence.group.key)
        self._queue.remove(sequence)
        self._residents.admit(sequence)
        draft.joins.append(sequence)
        return sequence

    def _advance(self, sequence: Sequence, budget: int, spare: int, draft: Draft) -> int:
        """Schedule the rest of a prompt if the budget allows, or a piece that leaves `spare` of it; the tokens."""
        start = sequence.num_computed
        rest = sequence.num_tokens - start
        length = rest if rest <= budget else budget - spare
        samples = length == rest
        draft.pieces.append(Piece(sequence, start, length, samples))
        sequence.num_computed += length
        if samples:
            self._start_decoding(sequence)
            if not sequence.group.forked:
                self._fork(sequence.group, draft)
        return length

    def _fork(self, group: RequestGroup, draft: Draft) -> None:
        self._residents.fork(group)
        for child in group.children:
            child.num_computed = group.parent.num_computed
            self._start_decoding(child)
            draft.joins.append(child)
        draft.forks.append(group)

    @staticmethod
    def _start_decoding(sequence: Sequence) -> None:
        sequence.state = SequenceState.RUNNING
        sequence.num_in_flight += 1
