"""Ties processes together so that none outlives the command that started it. Linux's prctl, and nothing else."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


def end_with_parent(parent_pid: int) -> Callable[[], None]:
    """For `preexec_fn`: SIGTERM reaches the child when the *thread* that spawned it ends: use the main thread."""

    def prepare() -> None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent_pid:  # it went away before the call above
            os._exit(1)

    return prepare


def shared_memory_regions(session: int) -> list[str]:
    """Names of the Python backend's regions in /dev/shm that the stubs of a session use: each has one in its argv."""
    lines = [_command_line(pid) for pid in os.listdir("/proc") if pid.isdigit() and _session(int(pid)) == session]
    return sorted({word for line in lines for word in line if word.startswith("triton_python_backend_shm_region_")})


def _command_line(pid: str) -> list[str]:
    try:
        with open(f"/proc/{pid}/cmdline") as file:
            return file.read().split("\0")
    except OSError:
        return []


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def adopt_orphans() -> None:
    """Descendants whose parent dies become children of this process, so that `end_children` finds them."""
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children() -> list[int]:
    """Process ids of this process's children, of all its threads, ascending."""
    pids: list[int] = []
    for thread in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{thread}/children") as file:
            pids += [int(pid) for pid in file.read().split()]
    return sorted(pids)


def end_children(patience_s: float) -> list[int]:
    """Wait for all children, `patience_s` seconds at most, then kill the rest; returns those that were killed."""
    deadline = time.monotonic() + patience_s
    while _reap() and time.monotonic() < deadline:
        time.sleep(0.02)
    killed = children()
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    while _reap():
        time.sleep(0.02)
    return killed


def _reap() -> bool:
    """Collect children that have ended; True while any is left."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True
