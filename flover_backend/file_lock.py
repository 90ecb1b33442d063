"""A lock between processes that is a file. Knows neither what it protects nor who holds it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path

LOCK_POLL_S = 0.02


class FileLock:
    """An flock on a file that may be unlinked by its holder: a lock on an unlinked file does not count."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    def try_acquire(self) -> bool:
        """True when this object now holds the lock."""
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self._is_current(fd):
                self._fd = fd
                return True
        except BlockingIOError:
            pass
        os.close(fd)
        return False

    def acquire(self, timeout_s: float) -> bool:
        """Wait at most `timeout_s` for the lock."""
        deadline = time.monotonic() + timeout_s
        while not self.try_acquire():
            if time.monotonic() >= deadline:
                return False
            time.sleep(LOCK_POLL_S)
        return True

    def release(self) -> None:
        """Let others have it; the file stays."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def remove(self) -> None:
        """Unlink the file, which only the holder may, and let go."""
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
        self.release()

    def _is_current(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), os.stat(self.path))
        except FileNotFoundError:
            return False
