"""Ends the fronts of a server that was killed, where their own watch (front/watch.py) cannot.

Triton's stub holds the interpreter lock while it waits for the server to acknowledge an `execute`. If the server is
killed at that moment, no Python thread of the front ever runs again, its watch neither. The engine is outside.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from flover_backend.stub_memory import arguments_of, shared_memory_regions

log = logging.getLogger(__name__)

GRACE_S = 2.0


def end_stuck_fronts(pids: list[int], grace_s: float = GRACE_S, known: Sequence[Path] = ()) -> None:
    """Wait `grace_s` at most for the stubs among `pids` to end by themselves, then kill them and free their regions.

    Processes that are no stubs (they have no region of Triton's) are left alone. `known` are regions of stubs that may
    have ended before, by a crash of Triton's code in them, which removes nothing.
    """
    deadline = time.monotonic() + grace_s
    for pid, regions in [(pid, regions_of(pid)) for pid in pids]:
        if regions:
            _end(pid, regions, deadline)
    for region in known:
        region.unlink(missing_ok=True)


def remove_regions_of_the_dead(stubs: Mapping[int, Sequence[Path]]) -> None:
    """Free the regions (by process id) of stubs that were killed under a server that lives: it does not."""
    for pid, regions in stubs.items():
        if not _is_alive(pid):
            for region in regions:
                region.unlink(missing_ok=True)


def regions_of(pid: int) -> list[Path]:
    """Triton's regions of a stub; none of any other process."""
    try:
        return shared_memory_regions(arguments_of(pid), pid)
    except OSError:
        return []


def _is_alive(pid: int) -> bool:
    """False for one that has ended and is still to be collected by its parent, too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def _end(pid: int, regions: list[Path], deadline: float) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            log.warning("killing instance %d: its server is gone and it does not end", pid)
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        for region in regions:
            region.unlink(missing_ok=True)
    finally:
        os.close(pidfd)
