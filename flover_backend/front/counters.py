"""What only a front can count, gathered and passed to the engine as increments (the engine aggregates)."""

from __future__ import annotations

import threading
from collections.abc import Callable

from flover_backend.errors import FloverError


class FrontCounters:
    """Counts from any thread; `flush` hands over what came since the last time."""

    def __init__(self, report: Callable[[int, dict[str, int]], None]) -> None:
        """`report(coalesced_responses, rejected by reason)`."""
        self._report = report
        self._lock = threading.Lock()
        self._coalesced = 0
        self._rejected: dict[str, int] = {}

    def coalesced(self, saved: int) -> None:
        """`saved` responses did not have to be sent: their tokens went out in another's."""
        with self._lock:
            self._coalesced += saved

    def rejected(self, error: FloverError) -> None:
        """A request was refused before the engine saw it."""
        with self._lock:
            self._rejected[error.reason] = self._rejected.get(error.reason, 0) + 1

    def flush(self) -> None:
        """Report, if there is anything."""
        with self._lock:
            coalesced, self._coalesced = self._coalesced, 0
            rejected, self._rejected = self._rejected, {}
        if coalesced or rejected:
            self._report(coalesced, rejected)
