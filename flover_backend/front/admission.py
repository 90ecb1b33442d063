"""Whether a front takes one more request: the engine's state as last heard, and what waits here for a tokenizer.

The engine has the last word (it refuses what comes too late); this spares the work of tokenizing for nothing.
"""

from __future__ import annotations

import threading

from flover_backend.channel import EngineInfo, Status
from flover_backend.errors import Draining, EngineFailed, EngineRestarting, QueueFull


class Admission:
    """May be asked and told from any thread."""

    def __init__(self, info: EngineInfo) -> None:
        self._info = info
        self._lock = threading.Lock()
        self._status = Status(num_waiting_requests=0, num_waiting_tokens=0, accepting=True, draining=False)
        self._failure: str | None = None
        self._restart: str | None = None
        self._num_preparing = 0

    def update(self, status: Status) -> None:
        """News from the engine."""
        self._status = status

    def close(self) -> None:
        """The engine is being left: refuse as one that drains does."""
        self._status = Status(num_waiting_requests=0, num_waiting_tokens=0, accepting=False, draining=True)

    def fail(self, message: str) -> None:
        """The engine is gone for good."""
        self._failure = message

    def suspend(self, message: str) -> None:
        """The engine is gone, and is being started again."""
        self._restart = message

    def resume(self) -> None:
        """There is an engine again, whose queue nobody knows to be full."""
        self._status = Status(num_waiting_requests=0, num_waiting_tokens=0, accepting=True, draining=False)
        self._restart = None

    @property
    def has_engine(self) -> bool:
        """False while one is being started again."""
        return self._restart is None

    @property
    def is_open(self) -> bool:
        """False while there is no engine, and for good once it has begun to drain. A full queue is open."""
        return self._failure is None and self._restart is None and not self._status.draining

    def enter(self) -> None:
        """One more request is being prepared. Raises `EngineFailed`, `Draining` or `QueueFull`."""
        status = self._status
        if self._failure is not None:
            raise EngineFailed(f"the engine has failed: {self._failure}; reload the model or restart the server")
        if self._restart is not None:
            raise EngineRestarting(f"the engine is being started again: {self._restart}; try again in a moment")
        with self._lock:
            # NOTE: a status comes only when the queue becomes full or has room again: the count in one that accepts is
            # that of its moment, and would be held against requests for ever. The engine counts exactly.
            waiting = self._num_preparing + (0 if status.accepting else status.num_waiting_requests)
            if status.draining:
                raise Draining("the server is draining and takes no new requests")
            if not status.accepting or waiting >= self._info.max_queued_requests:
                # Tokens are counted by the engine alone, which has not seen what is being prepared here.
                tokens = "" if status.accepting else f" with {status.num_waiting_tokens} prompt tokens"
                raise QueueFull(
                    f"the queue is full: {waiting} requests{tokens} wait; allowed are "
                    f"{self._info.max_queued_requests} with {self._info.max_queued_tokens}; try again later"
                )
            self._num_preparing += 1

    def leave(self) -> None:
        """The request of an `enter` is with the engine, or was refused."""
        with self._lock:
            self._num_preparing -= 1
