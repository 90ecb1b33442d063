"""When the responses of a stream go: the first at once, the next ones at most every 20 ms, the last at once.

Takes the place of the sender threads of a Triton stub. PyTriton's queues of responses have no bound, and each response
costs its one proxy process 0.2 ms and more: nothing but the clock makes tokens wait for one another. Beyond 40 streams
they wait longer, so that all together send no more than the proxy can take. Streams are served in PyTriton's own event
loop, where their generators wait: no thread between the engine's news and them. Knows no PyTriton, no tokens.
"""

from __future__ import annotations

import asyncio
import threading
import time

from flover_backend.front.interface import Servable

INTERVAL_S = 0.02
"""Between two responses of a stream."""
MOST_PER_S = 2000.0
"""Responses of all streams together."""


class PacedSenders:
    """Serves streams in the event loop that was last attached; while none runs, in whichever thread asks."""

    def __init__(self, interval_s: float = INTERVAL_S) -> None:
        self._interval_s = interval_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._scheduled: list[Servable] = []
        self._hastened: list[Servable] = []
        # Only the loop's thread touches these two, as long as it runs.
        self._waiting: dict[Servable, asyncio.TimerHandle] = {}
        self._next_time: dict[Servable, float] = {}

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Streams are served in `loop` from now on."""
        self._loop = loop

    def schedule(self, stream: Servable) -> None:
        """Serve `stream` when its time comes. The caller sees to it that it is not already waiting."""
        self._tell(self._scheduled, stream)

    def hasten(self, stream: Servable) -> None:
        """`stream`, which waits, is ending: serve it now."""
        self._tell(self._hastened, stream)

    def close(self, timeout_s: float) -> bool:
        """Serve what waits."""
        self._loop = None
        self._look()
        for stream in list(self._waiting):
            self._serve(stream)
        return True

    def _tell(self, news: list[Servable], stream: Servable) -> None:
        with self._lock:
            first = not self._scheduled and not self._hastened
            news.append(stream)
        loop = self._loop
        if loop is None or not loop.is_running():
            self._look()
        elif first:
            loop.call_soon_threadsafe(self._look)

    def _look(self) -> None:
        """Serve what is due, set the clock for the rest."""
        with self._lock:
            scheduled, hastened = self._scheduled.copy(), self._hastened.copy()
            self._scheduled.clear()
            self._hastened.clear()
        now = time.monotonic()
        for stream in scheduled:
            wait_s = self._next_time.get(stream, now) - now
            if self._loop is None or wait_s <= 0 or stream.is_ending:
                self._serve(stream)
            else:
                self._waiting[stream] = self._loop.call_later(wait_s, self._serve, stream)
        for stream in hastened:
            if stream in self._waiting:
                self._serve(stream)

    def _serve(self, stream: Servable) -> None:
        timer = self._waiting.pop(stream, None)
        if timer is not None:
            timer.cancel()
        interval_s = max(self._interval_s, len(self._next_time) / MOST_PER_S)
        self._next_time[stream] = time.monotonic() + interval_s
        stream.serve()
        if stream.is_ending:
            self._next_time.pop(stream, None)
