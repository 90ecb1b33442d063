"""Reads the engine's memory of its iterations while it works. Knows the observer's socket, nothing of requests."""

from __future__ import annotations

from flover_backend.channel import Iteration
from flover_backend.errors import EngineFailed
from flover_backend.observer import EngineObserver, find_engines


class IterationMonitor:
    """Owns a connection to the engine of a server and all records read so far. A context manager."""

    def __init__(self, server_pid: int) -> None:
        engines = find_engines(server_pid)
        if not engines:
            raise EngineFailed(f"no engine of server {server_pid} is to be found in the runtime directory")
        self._observer = EngineObserver.connect(engines[0], "flover demo")
        self.iterations: list[Iteration] = []

    def __enter__(self) -> IterationMonitor:
        return self

    def __exit__(self, *exception: object) -> None:
        self._observer.close()

    def read(self) -> None:
        """Append what is new; blocks for an iteration at most."""
        since = self.iterations[-1].step + 1 if self.iterations else 0
        self.iterations += self._observer.iterations(since)
