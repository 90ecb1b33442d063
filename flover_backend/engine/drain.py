"""The drain: no new requests, running ones finish for a while, the rest is cut, then whoever asked is told.

Knows counts and times; the service cancels, refuses and answers.
"""

from __future__ import annotations

from flover_backend.channel import Drain, Drained


class DrainState:
    """One drain of an engine; there is no way back from it."""

    def __init__(self) -> None:
        self.is_draining = False
        self.is_cutting = False
        """The time is over: what still runs was cancelled and ends with reason shutdown."""
        self._deadline = 0.0
        self._waiting: list[int] = []
        self._finished = 0
        self._ended = 0

    def begin(self, observer: int, message: Drain, now: float) -> bool:
        """True when this is the first drain; a later one joins it, and the earlier deadline counts."""
        first = not self.is_draining
        deadline = now + message.timeout_s
        self._deadline = deadline if first else min(self._deadline, deadline)
        self._waiting.append(observer)
        self.is_draining = True
        return first

    def is_due(self, now: float) -> bool:
        """True once, when the rest is to be cut."""
        due = self.is_draining and not self.is_cutting and now >= self._deadline
        self.is_cutting = self.is_cutting or due
        return due

    def request_ended(self, cut: bool) -> None:
        """A request ended while draining."""
        if self.is_draining:
            self._ended += cut
            self._finished += not cut

    def answers(self, num_live: int) -> list[tuple[int, Drained]]:
        """(connection, answer) of those who wait, when nothing is left."""
        if not self.is_draining or num_live:
            return []
        waiting, self._waiting = self._waiting, []
        return [(observer, Drained(self._finished, self._ended)) for observer in waiting]
