"""Invariants across the scheduler's parts; each part checks its own. Called when idle and in every test step."""

from __future__ import annotations

from collections.abc import Iterable

from flover_backend.kv.blocks import IntegrityError
from flover_backend.scheduler.admission import Residents
from flover_backend.scheduler.queue import WaitingQueue
from flover_backend.scheduler.sequence import RequestGroup, Sequence, SequenceState

_IN_QUEUE = (SequenceState.WAITING, SequenceState.PREEMPTED)
_RESIDENT = (SequenceState.PREFILL, SequenceState.RUNNING)


def check_order(residents: Residents, queue: WaitingQueue) -> None:
    """Whoever waits is newer than whoever holds blocks, and waits in arrival order."""
    uids = [s.uid for s in [*residents.in_order(), *queue.entries()]]
    if uids != sorted(uids):
        raise IntegrityError(f"arrival order is violated: residents, then the queue, are {uids}")


def check_states(groups: Iterable[RequestGroup], residents: Residents, queue: WaitingQueue) -> None:
    """Each unfinished sequence is where its state says, and nobody else is anywhere."""
    resident, waiting = list[int](), list[int]()
    for group in groups:
        unfinished = sum(s.state is not SequenceState.FINISHED for s in group.sequences)
        if unfinished != group.num_unfinished or not unfinished:
            raise IntegrityError(f"request {group.key} counts {group.num_unfinished} unfinished, has {unfinished}")
        units = group.sequences if group.forked else [group.parent]
        resident += [s.uid for s in units if s.state in _RESIDENT]
        waiting += [s.uid for s in units if s.state in _IN_QUEUE]
    for name, expected, found in (
        ("resident", resident, [s.uid for s in residents.in_order()]),
        ("waiting", waiting, [s.uid for s in queue.entries()]),
    ):
        if sorted(expected) != sorted(found):
            raise IntegrityError(f"{name} sequences are {sorted(found)}, by their states {sorted(expected)}")


def check_in_flight(groups: Iterable[RequestGroup], in_flight: Iterable[list[Sequence]]) -> None:
    """Each unfinished sequence counts the tokens that plans in flight sample for it; an ending one has its last."""
    counts: dict[int, int] = {}
    for sampled in in_flight:
        for sequence in sampled:
            counts[sequence.uid] = counts.get(sequence.uid, 0) + 1
    for group in groups:
        for sequence in group.sequences:
            if sequence.num_in_flight != counts.get(sequence.uid, 0):
                raise IntegrityError(f"{sequence!r} counts {sequence.num_in_flight} tokens in flight, not as planned")
            if sequence.state is SequenceState.ENDING and not sequence.num_in_flight:
                raise IntegrityError(f"{sequence!r} waits for a last token that is not in flight")
