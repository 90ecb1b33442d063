"""Which running sequences advance by one token, and who is preempted when they need blocks and none is free."""

from __future__ import annotations

from flover_backend.kv.tables import BlockTables
from flover_backend.scheduler.admission import Residents
from flover_backend.scheduler.config import SchedulerConfig
from flover_backend.scheduler.draft import Draft
from flover_backend.scheduler.ending import is_exhausted
from flover_backend.scheduler.queue import WaitingQueue
from flover_backend.scheduler.sequence import Sequence, SequenceState


class Decode:
    """Adds the decoding sequences to a draft: all that run, oldest first, so that the newest pay for a shortage."""

    def __init__(self, config: SchedulerConfig, tables: BlockTables, queue: WaitingQueue, residents: Residents) -> None:
        self._config = config
        self._tables = tables
        self._queue = queue
        self._residents = residents

    def schedule(self, draft: Draft) -> None:
        """One token for each running sequence that has one to come and gets room for it."""
        for sequence in self._residents.in_order():
            if sequence.state is SequenceState.RUNNING and self._make_room(sequence, draft):
                sequence.num_computed += 1
                sequence.num_in_flight += 1
                draft.decodes.append(sequence)

    def release_exhausted(self) -> None:
        """With plans ahead of results: a sequence whose last token is in flight needs its row and blocks no more."""
        for sequence in self._residents.in_order():
            if sequence.state is SequenceState.RUNNING and is_exhausted(sequence):
                self._residents.release(sequence)
                sequence.state = SequenceState.ENDING

    def _make_room(self, sequence: Sequence, draft: Draft) -> bool:
        """A block for the next token where one is needed; False if `sequence` itself had to be preempted."""
        if sequence.num_computed < len(self._tables[sequence.uid]) * self._config.block_size:
            return True
        while not self._tables.allocator.can_allocate(1):
            victim = self._residents.newest()
            self._preempt(victim)
            draft.preemptions += 1
            if victim is sequence:
                return False
        self._tables.append(sequence.uid)
        draft.grown.append(sequence)
        return True

    def _preempt(self, sequence: Sequence) -> None:
        """Take everything from a sequence (from all n where they are not forked) but its tokens."""
        self._residents.release(sequence)
        for member in sequence.group.unit_of(sequence):
            member.state = SequenceState.PREEMPTED
            member.num_computed = 0
        self._queue.requeue(sequence)
