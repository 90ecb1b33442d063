"""A thread that does small chores at an interval, off the path of tokens."""

from __future__ import annotations

import threading
from collections.abc import Callable

from flover_backend.front.logs import Log
from flover_backend.thread_names import tell_kernel_the_name


class Periodic:
    """Runs `chores` one after another, then rests for `interval_s`. A chore that raises is logged and tried again."""

    def __init__(self, interval_s: float, chores: list[Callable[[], None]], log: Log) -> None:
        self._interval_s = interval_s
        self._chores = chores
        self._log = log
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="periodic", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float) -> bool:
        """End the thread; False when it took longer than `timeout_s`."""
        self._stop.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        tell_kernel_the_name()
        while not self._stop.wait(self._interval_s):
            for chore in self._chores:
                try:
                    chore()
                except Exception as error:
                    self._log.error(f"{getattr(chore, '__qualname__', 'chore')} failed: {error!r}")
