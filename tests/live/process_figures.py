"""What a live server's processes hold: resident memory, threads, file descriptors, shared memory, files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from live_server import LiveServer, descendants_of, runtime_files, shared_memory_of


@dataclass(frozen=True)
class Figures:
    """Of one process, or a sum over several."""

    processes: int
    memory_mib: float
    threads: int
    file_descriptors: int

    def __add__(self, other: Figures) -> Figures:
        return Figures(
            self.processes + other.processes,
            self.memory_mib + other.memory_mib,
            self.threads + other.threads,
            self.file_descriptors + other.file_descriptors,
        )


def figures_of(pid: int) -> Figures:
    """Memory that it shares with nobody (`RssAnon`): pages of libraries come and go with the machine's load."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = {
        name: content.split()[0] for name, _, content in (line.partition(":") for line in lines) if content.split()
    }
    return Figures(1, int(fields["RssAnon"]) / 1024, int(fields["Threads"]), len(os.listdir(f"/proc/{pid}/fd")))


@dataclass(frozen=True)
class Holdings:
    """Of a whole server."""

    server: Figures
    others: Figures
    """Fronts and engines together."""
    regions: int
    """In /dev/shm."""
    files: int
    """In the runtime directory."""


def holdings_of(server: LiveServer) -> Holdings:
    pids = descendants_of(server.process.pid)
    others = sum(map(figures_of, pids), Figures(0, 0, 0, 0))
    regions = sum(len(shared_memory_of(pid)) for pid in pids)
    return Holdings(figures_of(server.process.pid), others, regions, len(runtime_files(server)))
