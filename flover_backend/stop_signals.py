"""SIGINT and SIGTERM as a count that a main loop looks at: nothing is interrupted at a point it did not choose."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class Stopped(Exception):
    """Somebody asked this command to stop."""


class StopSignals:
    """Owns the handlers of SIGINT and SIGTERM from its creation to the end of the process."""

    def __init__(self) -> None:
        self.count = 0
        self._event = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    def check(self) -> None:
        """Raise `Stopped` once a signal has come."""
        if self.count:
            raise Stopped

    def wait(self, seconds: float) -> bool:
        """Sleep, at most until a signal comes; True when one has."""
        return self._event.wait(seconds)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        self._event.set()
