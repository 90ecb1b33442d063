"""Ended requests whose front may still find a stop string in what it was sent: they are counted a little later.

A front looks for stop strings while the engine goes on; on a fast engine a short request is over before its stop
string is found. A counter must not fall, so such a request waits here. Knows counts, no sockets.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile

from flover_backend.engine.live import LiveRequest

HOLD_S = 1.0
"""A front that needs longer has its tokens counted up to the engine's end of the sequence."""


@dataclass(slots=True)
class EndedRequest:
    """What the metrics will be told."""

    live: LiveRequest
    reason: str
    """The finish reason's name."""
    time: float
    """When it ended, `time.monotonic()`."""
    last_index: int
    """The sequence that ended last: its reason is the request's."""

    @property
    def may_stop(self) -> bool:
        """A stop string may yet be found in one of the sequences."""
        return self.live.counts_at_end and any(sequence.finish_at is None for sequence in self.live.sequences)


class HeldRequests:
    """In order of their ends."""

    def __init__(self) -> None:
        self._held: dict[int, EndedRequest] = {}

    def hold(self, ended: EndedRequest) -> None:
        """Wait for its front's word."""
        self._held[ended.live.key] = ended

    def stopped(self, connection: int, key: int, index: int, num_tokens: int) -> EndedRequest | None:
        """The front found a stop string in sequence `index` after `num_tokens` tokens.

        Returns the request if there is nothing more to wait for; it is not held any more.
        """
        ended = self._held.get(key)
        if ended is None or ended.live.connection != connection or not 0 <= index < len(ended.live.sequences):
            return None
        ended.live.sequences[index].finish_at = num_tokens
        if index == ended.last_index and ended.reason == "length":
            ended.reason = "stop"
        return None if ended.may_stop else self._held.pop(key)

    def due(self, now: float) -> list[EndedRequest]:
        """Those that have waited long enough; they are not held any more."""
        due = list(takewhile(lambda ended: ended.time + HOLD_S <= now, self._held.values()))
        for ended in due:
            del self._held[ended.live.key]
        return due

    def seconds_left(self, now: float) -> float | None:
        """Until the next is due; None when none is held."""
        first = next(iter(self._held.values()), None)
        return None if first is None else max(0.0, first.time + HOLD_S - now)
