"""CPU time of a server's processes and their threads, from /proc. Knows processes by what runs in them, no request."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

STUB, ENGINE = "triton_python_backend_stub", "flover_backend.engine.process"
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class CpuTimes:
    """Seconds of user and system time."""

    threads: dict[tuple[str, int, str, int], float] = field(default_factory=dict)
    """(`front`, `engine`, `tritonserver` or `other`; process id; the kernel's name of the thread; its id)."""

    def since(self, before: CpuTimes) -> CpuTimes:
        """What was used between two looks; a thread that ended in between is missing."""
        return CpuTimes({key: spent - before.threads.get(key, 0.0) for key, spent in self.threads.items()})

    def by_kind(self) -> dict[str, float]:
        """Seconds of all processes of a kind."""
        sums: dict[str, float] = defaultdict(float)
        for (kind, _, _, _), spent in self.threads.items():
            sums[kind] += spent
        return dict(sums)

    def by_thread(self, kind: str) -> dict[str, float]:
        """Seconds of a kind's threads by name, summed over its processes; the first thread of each is `main`."""
        sums: dict[str, float] = defaultdict(float)
        for (its, pid, name, tid), spent in self.threads.items():
            if its == kind:
                sums["main" if tid == pid else name.rstrip("0123456789").rstrip("-")] += spent
        return dict(sorted(sums.items(), key=lambda item: -item[1]))

    def busiest(self, kind: str) -> float:
        """Seconds of the process of a kind that used most: of a front, one interpreter lock's."""
        sums: dict[int, float] = defaultdict(float)
        for (its, pid, _, _), spent in self.threads.items():
            if its == kind:
                sums[pid] += spent
        return max(sums.values(), default=0.0)


def look(root: int) -> CpuTimes:
    """At a process and all its descendants. One that ends meanwhile is left out."""
    found = CpuTimes()
    for pid in family(root):
        try:
            kind = kind_of(pid)
            for task in Path("/proc", str(pid), "task").iterdir():
                name, fields = _stat(task / "stat")
                found.threads[kind, pid, name, int(task.name)] = (int(fields[11]) + int(fields[12])) * TICK_S
        except (OSError, ValueError):
            continue
    return found


def family(root: int) -> list[int]:
    """Process ids of a process and all its descendants, parents first."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int(_stat(folder / "stat")[1][1])
            except (OSError, ValueError):
                continue
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def _stat(path: Path) -> tuple[str, list[str]]:
    """(name, fields from the state on) of proc(5)'s `stat`; a name may hold spaces and parentheses."""
    text = path.read_text()
    return text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 2 :].split()


def kind_of(pid: int) -> str:
    """`front`, `engine`, `tritonserver` or `other`. Raises OSError when there is no such process."""
    command = Path("/proc", str(pid), "cmdline").read_bytes().decode(errors="replace")
    if ENGINE in command:
        return "engine"
    first = os.path.basename(command.split("\0", maxsplit=1)[0])
    return "front" if STUB in command else first if first == "tritonserver" else "other"
