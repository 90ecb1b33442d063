"""The drain: no new requests, running ones finish for a while, the rest is cut, then whoever asked is told.

Knows counts and times; the service cancels, refuses and answers. In place of an engine that died the requests that it
had accepted are none of the new ones: the answer waits until the fronts have had time to submit them again.
"""

from __future__ import annotations

from flover_backend.channel import Drain, Drained

RESUBMIT_S = 2.0
"""A front that has been told that the next engine is ready has submitted again what waited for it within this time."""


class DrainState:
    """One drain of an engine; there is no way back from it."""

    def __init__(self, is_restart: bool) -> None:
        """`is_restart`: of an engine in place of one that died."""
        self._is_restart = is_restart
        self.is_draining = False
        self.is_cutting = False
        """The time is over: what still runs was cancelled and ends with reason shutdown."""
        self._deadline = 0.0
        self._hold_until = 0.0
        self._waiting: list[int] = []
        self._finished = 0
        self._ended = 0

    def begin(self, observer: int, message: Drain, now: float) -> bool:
        """True when this is the first drain; a later one joins it, and the earlier deadline counts."""
        first = not self.is_draining
        deadline = now + message.timeout_s
        self._deadline = deadline if first else min(self._deadline, deadline)
        if observer not in self._waiting:
            self._waiting.append(observer)
        self.is_draining = True
        return first

    def attached(self, now: float) -> None:
        """A front has been told that the engine is ready: its accepted requests may still come."""
        if self._is_restart:
            self._hold_until = now + RESUBMIT_S

    def seconds_to_answer(self, now: float) -> float | None:
        """Until an idle engine has to look here again; None when nobody waits."""
        return max(0.0, min(self._hold_until, self._deadline) - now) if self._waiting else None

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

    def answers(self, num_live: int, now: float) -> list[tuple[int, Drained]]:
        """(connection, answer) of those who wait, when nothing is left."""
        if num_live or self.seconds_to_answer(now) != 0.0:
            return []
        waiting, self._waiting = self._waiting, []
        return [(observer, Drained(self._finished, self._ended)) for observer in waiting]
