"""Whether the engine process lives, as a front judges it by what its socket says; and the end of one that does not.

Two ways to hang: the main thread is longer at its turn than that may take (the heartbeat says so), or the process says
nothing at all (it was stopped). Knows heartbeats, times and one process; no requests.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from pathlib import Path

from flover_backend.channel import Heartbeat
from flover_backend.stub_memory import arguments_of

LOOK_S = 0.5
"""A front looks at its socket for so long before it judges once more."""
LATE_LOOK_S = 0.05
"""Likewise once a heartbeat was bad: the other fronts are to hear it too before one of them kills the engine."""
SILENCE_S = 3.5
"""An engine sends a heartbeat every 0.5 s."""
BUSY_SILENCE_S = 30.0
"""Of a silent engine that uses its processor: a library (a compiler) holds the interpreter's lock."""
END_TIMEOUT_S = 10.0


class EngineLife:
    """Owns a handle of the engine process; one thread uses it."""

    def __init__(self, pid: int, stem: str) -> None:
        """The process `pid` if its command line names the engine's files (`stem`); else nothing can be killed."""
        self._pid = pid
        self._pidfd: int | None = None
        self._silent_s = 0.0
        self._cpu_ticks = -1
        self._late: Heartbeat | None = None
        with contextlib.suppress(OSError):
            pidfd = os.pidfd_open(pid)
            if stem in arguments_of(pid):  # after the handle was opened: the id cannot be another's any more
                self._pidfd = pidfd
            else:
                os.close(pidfd)

    @property
    def look_s(self) -> float:
        """How long to look for the next message: not for long once a heartbeat was bad, but for a better one."""
        return LOOK_S if self._late is None else LATE_LOOK_S

    def heard(self) -> None:
        """It has sent something."""
        self._silent_s = 0.0

    def beat(self, heartbeat: Heartbeat) -> None:
        """It has said how its main thread does. A message may be old: it counts when no later one is there."""
        self._late = heartbeat if heartbeat.busy_s > heartbeat.allowed_s else None

    def nothing_came(self) -> str | None:
        """For `look_s`; a front that was itself stopped has looked again. The reason, when it is to be killed."""
        if self._late is not None:
            late = self._late
            return f"an iteration runs for {late.busy_s:.1f} s; allowed are {late.allowed_s:.1f} s"
        self._silent_s += LOOK_S
        if self._silent_s < SILENCE_S:
            return None
        # NOTE: counted in looks, not by the clock: time in which this front was stopped itself does not count.
        before, self._cpu_ticks = self._cpu_ticks, self._used_ticks()
        is_computing = before >= 0 and self._cpu_ticks > before
        if before < 0 or (is_computing and self._silent_s < BUSY_SILENCE_S):
            return None
        return f"it has said nothing for {self._silent_s:.1f} s"

    def kill(self) -> None:
        """SIGKILL, and wait for its end. Bounded."""
        if self._pidfd is None:
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        self.await_end()

    def await_end(self) -> None:
        """Of a process that is ending. Bounded."""
        if self._pidfd is not None:
            poll = select.poll()
            poll.register(self._pidfd, select.POLLIN)
            poll.poll(END_TIMEOUT_S * 1000)

    def close(self) -> None:
        """Give the handle back."""
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None

    def _used_ticks(self) -> int:
        try:
            fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0
        return int(fields[11]) + int(fields[12])
