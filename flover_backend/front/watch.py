"""The front's watch on its tritonserver: a server that was killed must leave neither stubs nor shared memory behind.

An idle stub outlives a SIGKILL of its server, deaf to SIGTERM, and the server's shared-memory region stays. Triton
itself makes stubs ignore SIGINT and SIGTERM. A front that cannot run any Python is ended by the engine
(engine/stuck_fronts.py). Knows processes; no requests.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from flover_backend.errors import EngineFailed
from flover_backend.stub_memory import arguments_of, shared_memory_regions
from flover_backend.thread_names import tell_kernel_the_name


def server_pid(arguments: Sequence[str] | None = None) -> int:
    """The tritonserver that started this stub. Raises `EngineFailed` when it is gone already.

    A stub's command line holds its server's pid: a parent that is not named there has adopted an orphan.
    """
    arguments = arguments_of() if arguments is None else arguments
    parent = os.getppid()
    if shared_memory_regions(arguments) and str(parent) not in arguments:
        raise EngineFailed("the tritonserver that started this instance is gone")
    return parent


def guard_this_stub() -> subprocess.Popen[bytes] | None:
    """Have another process end this one with its server (stub_guard.py). None outside of a stub.

    Does not return where the server is gone already.
    """
    arguments = arguments_of()
    regions = shared_memory_regions(arguments)
    if not regions:
        return None
    server = os.getppid()
    if str(server) not in arguments:
        _end_stub(regions, os._exit)
    return subprocess.Popen(
        [
            sys.executable,
            "-I",
            "-S",
            Path(__file__).with_name("stub_guard.py"),
            *map(str, (server, os.getpid(), *regions)),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )


def _end_stub(regions: Sequence[Path], end: Callable[[int], object]) -> None:
    for region in regions:
        with contextlib.suppress(OSError):
            region.unlink()
    end(1)


class ServerWatch:
    """A thread that ends this process when the server's process is gone."""

    def __init__(self, pid: int, end: Callable[[int], object] = os._exit) -> None:
        """Raises `EngineFailed` when there is no such process."""
        try:
            self._pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            raise EngineFailed(f"the server process {pid} is gone") from None
        self._regions = shared_memory_regions(arguments_of())
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
        tell_kernel_the_name()
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        poll.register(self._stop_fd, select.POLLIN)
        if self._stop_fd in dict(poll.poll()):
            return
        _end_stub(self._regions, self._end)
