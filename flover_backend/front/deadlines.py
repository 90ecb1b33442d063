"""Deadlines that pass while there is no engine, which else sees to them at each iteration. Knows times, no tokens."""

from __future__ import annotations

import time
from collections.abc import Callable

from flover_backend.front.live import LiveRequests
from flover_backend.front.stream import Stream


class DeadlineSweep:
    """One pass over the live requests."""

    def __init__(self, live: LiveRequests, has_engine: Callable[[], bool], expire: Callable[[Stream], None]) -> None:
        self._live = live
        self._has_engine = has_engine
        self._expire = expire

    def __call__(self) -> None:
        """Expire those whose time is over; nothing while there is an engine."""
        if not self._has_engine():
            now = time.monotonic()
            for stream in self._live.all():
                if stream.deadline is not None and stream.deadline <= now:
                    self._expire(stream)
