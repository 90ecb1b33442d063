"""`python orphans.py PID`: ends what PyTriton leaves running when its program PID is killed while requests run.

Its tritonserver is told to end then, but waits without a limit for its stub, which waits for answers of the program,
and keeps its ports and shared memory. Runs as a process of its own, standard library only. Knows the names that
PyTriton gives; no engine, which sees to itself.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

GRACE_S = 10.0
POLL_S = 0.1
SHARED_MEMORY = Path("/dev/shm")


def wait_for_end(pid: int) -> None:
    """Return when the process has ended, which started this one."""
    with suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        if os.getppid() == pid:
            select.select([pidfd], [], [])


def end_orphans(pid: int, grace_s: float) -> None:
    """Let the program's tritonserver and stubs end by themselves for `grace_s`; kill and remove the rest."""
    region = f"pytrtion{pid}-"  # as PyTriton spells it
    deadline = time.monotonic() + grace_s
    while (left := _processes_with(region)) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    for process in left:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    for path in SHARED_MEMORY.glob(f"{region}*"):
        path.unlink(missing_ok=True)


def _processes_with(region: str) -> list[int]:
    starts = (region, f"python,shm-region-prefix-name={region}")
    return [
        int(folder.name)
        for folder in Path("/proc").iterdir()
        if folder.name.isdigit() and any(argument.startswith(starts) for argument in _arguments(folder))
    ]


def _arguments(folder: Path) -> list[str]:
    try:
        return (folder / "cmdline").read_text(errors="surrogateescape").split("\0")
    except OSError:
        return []


def main() -> None:
    """Watch the process that the command line names."""
    for number in (signal.SIGINT, signal.SIGHUP):  # they reach whole process groups
        signal.signal(number, signal.SIG_IGN)
    program = int(sys.argv[1])
    wait_for_end(program)
    end_orphans(program, GRACE_S)


if __name__ == "__main__":
    main()
