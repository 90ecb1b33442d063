"""What only a front can count. The engine aggregates some of it and is told of increments; whether each accepted
request had its end each front writes itself, as an engine that dies takes its counts with it.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

from flover_backend.errors import FloverError
from flover_backend.metric_families import series


class FrontCounters:
    """Counts from any thread; `flush` hands over what came since the last time."""

    def __init__(self, report: Callable[[int, dict[str, int]], None], write: Callable[[dict[str, int]], None]) -> None:
        """`report(coalesced_responses, rejected by reason)` tells the engine, `write(series -> increment)` Triton."""
        self._report = report
        self._write = write
        self._lock = threading.Lock()
        self._coalesced = 0
        self._rejected: dict[str, int] = {}
        self._written: Counter[str] = Counter()

    def coalesced(self, saved: int) -> None:
        """`saved` responses did not have to be sent: their tokens went out in another's."""
        with self._lock:
            self._coalesced += saved

    def rejected(self, error: FloverError) -> None:
        """A request was refused before the engine saw it."""
        with self._lock:
            self._rejected[error.reason] = self._rejected.get(error.reason, 0) + 1

    def accepted(self) -> None:
        """A request turns out to be accepted: it has news."""
        with self._lock:
            self._written["flover_requests_accepted_total"] += 1

    def ended(self, outcome: str) -> None:
        """An accepted request had its FINAL."""
        with self._lock:
            self._written[series("flover_requests_ended_total", outcome=outcome)] += 1

    def flush(self) -> None:
        """Report, if there is anything."""
        with self._lock:
            coalesced, self._coalesced = self._coalesced, 0
            rejected, self._rejected = self._rejected, {}
            written, self._written = self._written, Counter()
        if coalesced or rejected:
            self._report(coalesced, rejected)
        if written:
            self._write(dict(written))
