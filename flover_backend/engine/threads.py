"""How many threads the engine computes with: as many as it has physical cores, within the container's limit.

Two hardware threads of a core share its multipliers: a second compute thread there costs more than it gives. The
cores are shared with the fronts and the server, so a compute thread that waits for the others must sleep, not spin:
on 2 busy cores a decode iteration of the bundled model took 2.3 ms with 1 thread, 71 ms with 2 that spin (libgomp's
default), 3.4 ms with 2 that sleep.
Knows /proc, /sys and environment variables; imports no torch (whose OpenMP reads them when it is imported).
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path


def set_thread_counts() -> None:
    """Set OMP_NUM_THREADS and OMP_WAIT_POLICY unless the operator has. Call before torch is imported."""
    os.environ.setdefault("OMP_NUM_THREADS", str(num_compute_threads()))
    if "GOMP_SPINCOUNT" not in os.environ:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # NOTE: the IO thread needs the interpreter lock for microseconds at a time; the default lets it wait 5 ms.
    sys.setswitchinterval(0.0005)


def num_compute_threads() -> int:
    """Physical cores that this process may run on, at most the control group's CPU quota."""
    cores = len({_core_of(cpu) for cpu in os.sched_getaffinity(0)})
    return max(1, min(cores, _quota()))


def _core_of(cpu: int) -> str:
    try:
        return Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text()
    except OSError:
        return str(cpu)


def _quota(path: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """CPUs of a version 2 control group's limit, rounded up; a large number when there is none."""
    try:
        quota, period = path.read_text().split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError):
        return sys.maxsize
