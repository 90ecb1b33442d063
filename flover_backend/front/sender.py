"""The threads that send. A stream waits here at most once and is served by one thread at a time.

Knows nothing of what a stream sends: Stream.serve does, and never raises.
"""

from __future__ import annotations

import queue
import threading
import time

from flover_backend.front.interface import Servable
from flover_backend.thread_names import tell_kernel_the_name


class SenderPool:
    """`num_threads` threads that serve streams in the order in which they had something to send."""

    def __init__(self, num_threads: int) -> None:
        self._ready: queue.SimpleQueue[Servable | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"sender-{number}", daemon=True) for number in range(num_threads)
        ]
        for thread in self._threads:
            thread.start()

    def schedule(self, stream: Servable) -> None:
        """Serve `stream` soon. The caller sees to it that it is not already waiting."""
        self._ready.put(stream)

    def hasten(self, stream: Servable) -> None:
        """It waits for nothing but a thread."""

    def close(self, timeout_s: float) -> bool:
        """Serve what waits, then end the threads; False when that took longer than `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        for _ in self._threads:
            self._ready.put(None)
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _run(self) -> None:
        tell_kernel_the_name()
        while (stream := self._ready.get()) is not None:
            stream.serve()
