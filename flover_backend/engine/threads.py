"""How many threads the engine computes with: as many as it has physical cores, within the container's limit.

Two hardware threads of a core share its multipliers: a second compute thread there costs more than it gives.
Knows /proc, /sys and environment variables; imports no torch (which reads OMP_NUM_THREADS when it is imported).
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path


def set_thread_counts() -> None:
    """Set OMP_NUM_THREADS unless the operator has. Call before torch is imported."""
    os.environ.setdefault("OMP_NUM_THREADS", str(num_compute_threads()))
    # NOTE: threads that spin while they wait hold the cores that Triton, the fronts and clients need: beside a busy
    # process an iteration of the bundled model took 15 ms spinning and 3 ms waiting (worst: 620 and 15 ms).
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
