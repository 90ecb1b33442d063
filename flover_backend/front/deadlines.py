"""Deadlines that pass while there is no engine, which else sees to them at each iteration. Knows times, no tokens."""

from __future__ import annotations

import time

from flover_backend.front.admission import Admission
from flover_backend.front.engine_errors import error_of
from flover_backend.front.live import LiveRequests


class DeadlineSweep:
    """One pass over the live requests."""

    def __init__(self, live: LiveRequests, admission: Admission) -> None:
        self._live = live
        self._admission = admission

    def __call__(self) -> None:
        """Expire those whose time is over; nothing while there is an engine."""
        if not self._admission.has_engine:
            now = time.monotonic()
            for stream in self._live.all():
                if stream.deadline is not None and stream.deadline <= now:
                    stream.end(error_of("UNAVAILABLE", "deadline_ms passed before the first token", "deadline"))
