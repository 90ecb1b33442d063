"""What a server holds while nobody asks anything: memory, threads, descriptors, shared memory, blocks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.through_triton.cpu import kind_of
from flover_backend.lifeline import shared_memory_regions
from flover_backend.server import TritonServer
from flover_backend.top.exposition import Reading
from flover_backend.top.scrape import scrape

HELD = ("flover_requests_running", "flover_requests_waiting", "flover_waiting_tokens", "flover_kv_blocks_used")
"""Gauges that are 0 when nobody asks anything."""
PAGE_BYTES = os.sysconf("SC_PAGESIZE")
WARM_ROUNDS = 2
"""Memory is flat from the third round on."""
GROWTH, GROWTH_MIB, GROWTH_COUNT = 1.1, 64.0, 6
"""Allowed from the most in the first half of the later rounds to the most in the second: times as much and so many MiB;
so many more things. The most, because an engine that was started again holds less at first.

On a CPU an engine fills two caches in its first minutes: oneDNN's plans for products of each size (1,024 at most; with
room for 8 of them it took 110 MiB less after 70 s) and the record of its last 65,536 iterations.
"""


@dataclass(frozen=True, slots=True)
class Held:
    """By a tritonserver with its fronts and its engine."""

    server_mib: float
    """Resident memory of the tritonserver itself."""
    fronts_mib: float
    engine_mib: float
    threads: int
    descriptors: int
    regions: int
    """Files of theirs in /dev/shm."""

    def in_words(self) -> str:
        """Short."""
        counts = f"{self.threads} threads, {self.descriptors} descriptors, {self.regions} regions"
        mib = f"{self.server_mib:.0f} + {self.fronts_mib:.0f} + {self.engine_mib:.0f} MiB (server, fronts, engine)"
        return f"{mib}, {counts}"


def look(server: TritonServer) -> Held:
    """At all its processes. An engine may have outlived the front that was its parent; the session stays the same."""
    resident = dict.fromkeys(("tritonserver", "front", "engine"), 0.0)
    threads = descriptors = 0
    for pid in _session(server.pid):
        with suppress(OSError):
            kind = kind_of(pid)
            resident[kind] = resident.get(kind, 0.0) + int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            threads += len(list(Path(f"/proc/{pid}/task").iterdir()))
            descriptors += len(list(Path(f"/proc/{pid}/fd").iterdir()))
    mib = {kind: pages * PAGE_BYTES / 2**20 for kind, pages in resident.items()}
    regions = len(shared_memory_regions(server.pid))
    return Held(mib["tritonserver"], mib["front"], mib["engine"], threads, descriptors, regions)


def _session(leader: int) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        with suppress(OSError):
            if name.isdigit() and os.getsid(int(name)) == leader:
                found.append(int(name))
    return found


def reading(server: TritonServer) -> Reading:
    """Of /metrics. Raises `ScrapeFailed`."""
    (found,) = scrape(server.metrics_url, (server.options.name,), timeout_s=10).values()
    return found


def still_held(found: Reading) -> str:
    """The gauges that are not 0, in words; empty when all are."""
    return ", ".join(f"{name} is {found.value(name):g}" for name in HELD if found.value(name))


def growth(held: Sequence[Held]) -> list[str]:
    """What is not flat over the later rounds; empty when all is, or there were too few rounds to tell."""
    later = held[WARM_ROUNDS:]
    if len(later) < 2:
        return []
    middle = len(later) // 2
    problems = []
    for name in ("server_mib", "fronts_mib", "engine_mib", "threads", "descriptors", "regions"):
        before, after = (max(getattr(one, name) for one in part) for part in (later[:middle], later[middle:]))
        allowed = before * GROWTH + GROWTH_MIB if name.endswith("_mib") else before + GROWTH_COUNT
        if after > allowed:
            problems.append(f"{name} grew from {before:.0f} to {after:.0f}; allowed is {allowed:.0f}")
    return problems
