"""The requests of a front that have not had their FINAL, by key, in order of arrival."""

from __future__ import annotations

import threading

from flover_backend.front.stream import Stream


class LiveRequests:
    """A registry; any thread may use it."""

    def __init__(self) -> None:
        self._streams: dict[int, Stream] = {}
        self._empty = threading.Condition()
        self.has_had_any = False

    def add(self, stream: Stream) -> None:
        """From before the engine can answer."""
        with self._empty:
            self._streams[stream.key] = stream
            self.has_had_any = True

    def get(self, key: int) -> Stream | None:
        """None once it has had its FINAL."""
        return self._streams.get(key)

    def remove(self, key: int) -> None:
        """After its FINAL."""
        with self._empty:
            self._streams.pop(key, None)
            self._empty.notify_all()

    def all(self) -> list[Stream]:
        """A copy, oldest first."""
        with self._empty:
            return list(self._streams.values())

    def wait_until_empty(self, timeout_s: float) -> bool:
        """False when some are left after `timeout_s`."""
        with self._empty:
            return self._empty.wait_for(lambda: not self._streams, timeout_s)
