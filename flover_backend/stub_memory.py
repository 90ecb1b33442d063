"""Which of Triton's shared-memory regions a stub process uses. Knows /proc and /dev/shm, nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")


def arguments_of(process: int | str = "self") -> list[str]:
    """A process's command line (in a stub `sys.argv` is not it). Raises OSError when there is no such process."""
    return Path(f"/proc/{process}/cmdline").read_text(errors="surrogateescape").split("\0")


def shared_memory_regions(arguments: Sequence[str], process: int | str = "self") -> list[Path]:
    """The regions in /dev/shm that the arguments name and the process has mapped (a stub has one)."""
    lines = Path(f"/proc/{process}/maps").read_text(errors="surrogateescape").splitlines()
    names = (line.rpartition(f" {SHARED_MEMORY}/")[2] for line in lines if f" {SHARED_MEMORY}/" in line)
    mapped = dict.fromkeys(name.removesuffix(" (deleted)") for name in names)
    return [SHARED_MEMORY / argument for argument in arguments if argument in mapped]
