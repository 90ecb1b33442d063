"""An engine client without an engine: keeps what it is told; tests speak the engine's part through the handler."""

from __future__ import annotations

import itertools
import threading

from small_info import INFO

from flover_backend.channel import EngineInfo
from flover_backend.errors import EngineFailed
from flover_backend.request import Request


class FakeClient:
    def __init__(self, info: EngineInfo = INFO) -> None:
        self.info = info
        self.submitted: list[Request] = []
        self.cancelled: list[int] = []
        self.finished: list[tuple[int, int, int]] = []
        self.stats: list[tuple[int, dict[str, int]]] = []
        self.written: list[int] = []
        self.is_closed = False
        self.failure: str | None = None
        self._keys = itertools.count((info.front_number << 40) + 1)
        self._news = threading.Condition()

    def next_key(self) -> int:
        return next(self._keys)

    def submit(self, request: Request) -> None:
        if self.failure is not None:
            raise EngineFailed(self.failure)
        with self._news:
            self.submitted.append(request)
            self._news.notify_all()

    def forget(self, key: int) -> None:
        pass

    def cancel(self, key: int) -> None:
        self.cancelled.append(key)

    def finish(self, key: int, index: int, num_tokens: int) -> None:
        self.finished.append((key, index, num_tokens))

    def front_stats(self, coalesced_responses: int = 0, rejected: dict[str, int] | None = None) -> None:
        self.stats.append((coalesced_responses, rejected or {}))

    def metrics_written(self, sequence: int) -> None:
        self.written.append(sequence)

    def close(self) -> None:
        self.is_closed = True

    def wait_submitted(self, count: int = 1) -> Request:
        """The `count`-th request, once it has come."""
        with self._news:
            assert self._news.wait_for(lambda: len(self.submitted) >= count, 10), "nothing was submitted"
        return self.submitted[count - 1]
