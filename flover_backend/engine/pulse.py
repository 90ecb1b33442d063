"""How the engine's main thread does, as its IO thread tells the fronts. Knows turns, times and keys, no requests.

The IO thread lives on while the main thread hangs: it must not be taken for a sign of life, so it tells of the other.
"""

from __future__ import annotations

from flover_backend.channel import Heartbeat
from flover_backend.engine.interface import EngineCore

INTERVAL_S = 0.5


class Pulse:
    """The main thread calls `begin` and `rest`, the IO thread the others."""

    def __init__(self, core: EngineCore) -> None:
        """`core`: whose turns they are."""
        self._core = core
        self._turn = 0
        self._rests = False
        self._seen = 0
        self._busy_s = 0.0
        self._last_beat: float | None = None

    def begin(self) -> None:
        """A turn of the main loop begins."""
        self._turn += 1
        self._rests = False

    def rest(self) -> None:
        """There is nothing to do but to wait for a request."""
        self._rests = True

    def seconds_to_next(self, now: float) -> float:
        """Until `beat` has something to say."""
        return 0.0 if self._last_beat is None else max(0.0, self._last_beat + INTERVAL_S - now)

    def beat(self, now: float) -> Heartbeat | None:
        """A message for all fronts, if one is due."""
        if self.seconds_to_next(now) > 0:
            return None
        # NOTE: time in which this whole process was stopped is not held against its main thread.
        passed = 0.0 if self._last_beat is None else min(now - self._last_beat, 2 * INTERVAL_S)
        self._last_beat = now
        turn = self._turn
        self._busy_s = self._busy_s + passed if turn == self._seen and not self._rests else 0.0
        self._seen = turn
        allowed_s = self._core.allowed_seconds
        return Heartbeat(self._busy_s, allowed_s, self._suspects() if self._busy_s > allowed_s else ())

    def _suspects(self) -> tuple[int, ...]:
        try:
            return self._core.unanswered_keys
        except RuntimeError:  # the turn goes on after all
            return ()
