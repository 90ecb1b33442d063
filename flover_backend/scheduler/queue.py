"""Who waits for rows and blocks: preempted sequences first, then new requests, each in arrival order.

Bounded for new requests; preempted ones were admitted once and are never refused.
"""

from __future__ import annotations

from collections import deque

from flover_backend.errors import QueueFull
from flover_backend.scheduler.sequence import RequestGroup, Sequence, SequenceState


class WaitingQueue:
    """An unforked request waits as its parent sequence, a preempted sequence of a forked one as itself."""

    def __init__(self, max_requests: int, max_tokens: int) -> None:
        self._max_requests = max_requests
        self._max_tokens = max_tokens
        self._preempted: deque[Sequence] = deque()
        self._new: dict[int, RequestGroup] = {}
        self.num_tokens = 0
        """Prompt tokens of the new requests."""

    @property
    def num_new(self) -> int:
        """Requests that were never admitted."""
        return len(self._new)

    def check_room(self, num_tokens: int) -> None:
        """Raise `QueueFull` if a prompt of `num_tokens` has no room. An empty queue takes any prompt."""
        if not self._new:
            return
        if len(self._new) >= self._max_requests or self.num_tokens + num_tokens > self._max_tokens:
            raise QueueFull(
                f"the queue is full: {len(self._new)} requests with {self.num_tokens} prompt tokens wait, this one has "
                f"{num_tokens} (allowed are {self._max_requests} requests and {self._max_tokens} tokens); try later"
            )

    def append(self, group: RequestGroup) -> None:
        """A new request, last in order."""
        self._new[group.key] = group
        self.num_tokens += len(group.prompt_ids)

    def requeue(self, sequence: Sequence) -> None:
        """A preempted sequence, first in order: only the newest running one is preempted, all others here are newer."""
        self._preempted.appendleft(sequence)

    def head(self) -> Sequence | None:
        """Who is next."""
        if self._preempted:
            return self._preempted[0]
        return next(iter(self._new.values())).parent if self._new else None

    def remove(self, sequence: Sequence) -> None:
        """`sequence` is admitted, or over."""
        if sequence.state is SequenceState.PREEMPTED:
            self._preempted.remove(sequence)
        else:
            group = self._new.pop(sequence.group.key)
            self.num_tokens -= len(group.prompt_ids)

    def preempted(self) -> list[Sequence]:
        """Preempted entries in order."""
        return list(self._preempted)

    def entries(self) -> list[Sequence]:
        """All entries in order."""
        return [*self._preempted, *(group.parent for group in self._new.values())]
