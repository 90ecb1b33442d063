"""The front's watch on its tritonserver: a server that was killed must leave neither stubs nor shared memory behind.

An idle stub outlives a SIGKILL of its server, deaf to SIGTERM, and the server's shared-memory region stays. Triton
itself makes stubs ignore SIGINT and SIGTERM. Knows processes and /dev/shm; no requests.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from flover_backend.errors import EngineFailed

SHARED_MEMORY = Path("/dev/shm")


def own_arguments() -> list[str]:
    """This process's command line; in a stub `sys.argv` is not it."""
    return Path("/proc/self/cmdline").read_text(errors="surrogateescape").split("\0")


def shared_memory_regions(arguments: Sequence[str]) -> list[Path]:
    """The regions in /dev/shm that the arguments name and this process has mapped (a stub has one)."""
    lines = Path("/proc/self/maps").read_text(errors="surrogateescape").splitlines()
    mapped = dict.fromkeys(line.rpartition(f" {SHARED_MEMORY}/")[2] for line in lines if f" {SHARED_MEMORY}/" in line)
    return [SHARED_MEMORY / argument for argument in arguments if argument in mapped]


def server_pid(arguments: Sequence[str] | None = None) -> int:
    """The tritonserver that started this stub. Raises `EngineFailed` when it is gone already.

    A stub's command line holds its server's pid: a parent that is not named there has adopted an orphan.
    """
    arguments = own_arguments() if arguments is None else arguments
    parent = os.getppid()
    if shared_memory_regions(arguments) and str(parent) not in arguments:
        raise EngineFailed("the tritonserver that started this instance is gone")
    return parent


class ServerWatch:
    """A thread that ends this process when the server's process is gone."""

    def __init__(self, pid: int, end: Callable[[int], object] = os._exit) -> None:
        """Raises `EngineFailed` when there is no such process."""
        try:
            self._pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            raise EngineFailed(f"the server process {pid} is gone") from None
        self._regions = shared_memory_regions(own_arguments())
        self._end = end
        self._stop_fd = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._watch, name="server-watch", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """End the watch: the instance is being finalized."""
        os.eventfd_write(self._stop_fd, 1)
        self._thread.join()
        os.close(self._stop_fd)
        os.close(self._pidfd)

    def _watch(self) -> None:
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        poll.register(self._stop_fd, select.POLLIN)
        if self._stop_fd in dict(poll.poll()):
            return
        for region in self._regions:
            with contextlib.suppress(OSError):
                region.unlink()
        self._end(1)
