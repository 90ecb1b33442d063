"""How often an engine may be started again. All its fronts share one count: a file beside the engine's socket.

Knows times and the file; who starts what is rendezvous.py's business.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from flover_backend.config import ModelJson
from flover_backend.engine_files import EngineFiles, EngineKey, Restarts
from flover_backend.errors import EngineFailed


class NoRestart(EngineFailed):
    """The engine is not started again; another try would be of no use."""


class RestartsUsedUp(NoRestart):
    """The engine died too often."""


class ModelChanged(NoRestart):
    """What would be started is another model than the one that died."""


class RestartLimit:
    """`engine_restarts` within `engine_restart_window_s`, as one front knows it."""

    def __init__(self, config: ModelJson, clock: Callable[[], float] = time.monotonic) -> None:
        self._allowed = config.engine_restarts
        self._window_s = config.engine_restart_window_s
        self._clock = clock
        self._times: list[float] = []
        self.counted: Callable[[], None] = lambda: None
        """Called when this front has counted one."""

    def learn(self, files: EngineFiles) -> None:
        """This front is attached: what was counted up to now stays known to it, whatever becomes of the file."""
        self._times = sorted({*self._times, *files.read_restarts()})

    def count(self, files: EngineFiles, key: EngineKey) -> None:
        """An engine is about to be started again; the caller holds the lock. Raises `RestartsUsedUp`."""
        self.learn(files)
        now = self._clock()
        recent = self._recent(now)
        if len(recent) >= self._allowed:
            raise RestartsUsedUp(self.used_up())
        restarts = Restarts(server_pid=key.server_pid, server_start=key.server_start, times=[*recent, now])
        files.write_restarts(restarts)
        self._times = restarts.times
        self.counted()

    def count_failure(self) -> None:
        """An attempt failed before it could be counted with the others'. Raises `RestartsUsedUp`."""
        now = self._clock()
        self._times = [*self._recent(now), now]
        if len(self._times) > self._allowed:
            raise RestartsUsedUp(self.used_up())

    @property
    def left(self) -> int:
        """As far as this front knows."""
        return max(0, self._allowed - len(self._recent(self._clock())))

    def used_up(self) -> str:
        """Why there is no restart."""
        if not self._allowed:
            return "engine_restarts is 0"
        return f"it was started again {self._allowed} times within {self._window_s:g} s (engine_restarts)"

    def describe(self) -> str:
        """Which restart is under way, as far as this front knows; for those who are told to come back."""
        if not self.left:
            return self.used_up()
        return f"restart {self._allowed - self.left + 1} of {self._allowed} within {self._window_s:g} s"

    def _recent(self, now: float) -> list[float]:
        return [time for time in self._times if now - time < self._window_s]
