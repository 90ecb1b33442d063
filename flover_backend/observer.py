"""A tool's view of a running engine: iterations, metrics, drain. Synchronous, one thread, no torch, no Triton.

for engine in find_engines(server_pid):
    with EngineObserver.connect(engine) as observer:
        records = observer.iterations(since_step=0)
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from flover_backend.channel import (
    Drain,
    Drained,
    EngineInfo,
    Failed,
    FrameReader,
    GetIterations,
    GetMetrics,
    Hello,
    Iteration,
    Iterations,
    Loading,
    Metrics,
    Ready,
    ToEngine,
    ToFront,
    encode,
)
from flover_backend.engine_files import Description, EngineFiles, described_engines
from flover_backend.errors import EngineFailed

RECEIVE_BYTES = 1 << 18
ANSWER_TIMEOUT_S = 30.0
LEAVE_TIMEOUT_S = 2.0
DRAIN_GRACE_S = 10.0
"""Beyond a drain's own timeout: the iterations that run, and the answer."""

Answer = TypeVar("Answer", bound=ToFront)


class FoundEngine:
    """An engine process that has published itself in this user's runtime directory."""

    def __init__(self, files: EngineFiles, description: Description) -> None:
        self.files = files
        self.description = description


def find_engines(server_pid: int | None = None, directories: Sequence[Path] | None = None) -> list[FoundEngine]:
    """The engines of one tritonserver, or of all servers of this user; `directories`: where else to look for them."""
    return [FoundEngine(files, description) for files, description in described_engines(server_pid, directories)]


class EngineObserver:
    """A connection to an engine in the observer role; it does not keep the engine alive.

    Every method raises `EngineFailed` when the engine is gone or failed, TimeoutError when it does not answer.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._reader = FrameReader(engine_side=False)
        self._messages: deque[ToFront] = deque()
        self.info: EngineInfo

    @classmethod
    def connect(
        cls,
        engine: FoundEngine,
        name: str = "observer",
        load_timeout_s: float = ANSWER_TIMEOUT_S,
        on_loading: Callable[[Loading], None] = lambda loading: None,
    ) -> EngineObserver:
        """Connect and wait until the engine is loaded; `load_timeout_s` bounds the time between its news."""
        observer = cls.open(engine, name)
        try:
            observer.info = observer._await(Ready, load_timeout_s, on_loading).info
        except BaseException:
            observer.close()
            raise
        return observer

    @classmethod
    def open(cls, engine: FoundEngine, name: str = "observer") -> EngineObserver:
        """Connect to an engine that may be loading: `begin_drain`, `is_loaded`, `await_...` then."""
        connection = engine.files.connect()
        if connection is None:
            raise EngineFailed(f"no engine listens on {engine.files.socket_path}")
        observer = cls(connection)
        try:
            observer._send(Hello(role="observer", name=name, pid=os.getpid()))
        except BaseException:
            connection.close()
            raise
        return observer

    def is_loaded(self, timeout_s: float) -> bool:
        """By the engine's first word, right after `open`: False while it loads."""
        self._connection.settimeout(timeout_s)
        message = self._next_message()
        if isinstance(message, Failed):
            raise EngineFailed(message.message)
        return isinstance(message, Ready)

    def await_loaded(self, timeout_s: float) -> None:
        """After `is_loaded` has said no: return when the engine is."""
        self._await(Ready, timeout_s)

    def iterations(self, since_step: int) -> list[Iteration]:
        """The remembered iterations (at most 65,536) with a step of at least `since_step`, oldest first."""
        self._send(GetIterations(since_step))
        return self._await(Iterations).records

    def metrics(self) -> Metrics:
        """A snapshot of all totals and gauges."""
        self._send(GetMetrics())
        return self._await(Metrics)

    def drain(self, timeout_s: float) -> Drained:
        """Let running requests finish for `timeout_s`, refuse new ones; returns when nothing runs any more."""
        self.begin_drain(timeout_s)
        return self.await_drained(timeout_s)

    def begin_drain(self, timeout_s: float) -> None:
        """The first half of `drain`. An engine that loads will refuse every request as soon as it is loaded."""
        self._send(Drain(timeout_s))

    def await_drained(self, timeout_s: float) -> Drained:
        """The second half."""
        return self._await(Drained, timeout_s + DRAIN_GRACE_S)

    def leave(self) -> None:
        """Disconnect once the engine has read what it was sent."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)
            self._connection.settimeout(LEAVE_TIMEOUT_S)
            while self._connection.recv(RECEIVE_BYTES):
                pass
        self.close()

    def close(self) -> None:
        """Disconnect."""
        self._connection.close()

    def __enter__(self) -> EngineObserver:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _send(self, message: ToEngine) -> None:
        try:
            self._connection.sendall(encode(message))
        except OSError as error:
            raise EngineFailed(f"the engine is gone: {error}") from None

    def _await(
        self,
        wanted: type[Answer],
        timeout_s: float = ANSWER_TIMEOUT_S,
        on_loading: Callable[[Loading], None] = lambda loading: None,
    ) -> Answer:
        self._connection.settimeout(timeout_s)
        while True:
            message = self._next_message()
            if isinstance(message, wanted):
                return message
            if isinstance(message, Failed):
                raise EngineFailed(message.message)
            if isinstance(message, Loading):
                on_loading(message)

    def _next_message(self) -> ToFront:
        while not self._messages:
            try:
                data = self._connection.recv(RECEIVE_BYTES)
            except ConnectionError as error:
                raise EngineFailed(f"the engine is gone: {error}") from None
            if not data:
                raise EngineFailed("the engine is gone")
            self._messages.extend(self._reader.feed(data))  # type: ignore[arg-type]
        return self._messages.popleft()
