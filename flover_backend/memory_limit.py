"""How much memory this process may still take: what the kernel has to give, or what a container's limit leaves."""

from __future__ import annotations

from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
_NO_LIMIT = 1 << 60


def available_bytes(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = CGROUP) -> int:
    """MemAvailable, or less where a cgroup (version 1 or 2) allows less. Page cache counts as free."""
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
    free = int(lines["MemAvailable"].split()[0]) * 1024
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        most, taken = _number(cgroup / limit), _number(cgroup / used)
        if most is not None and taken is not None and most < _NO_LIMIT:
            free = min(free, max(0, most - taken + _inactive_file((cgroup / limit).with_name("memory.stat"))))
    return free


def _number(path: Path) -> int | None:
    """None for `max`, and where there is no such file."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _inactive_file(stat: Path) -> int:
    try:
        fields = dict(line.split() for line in stat.read_text().splitlines())
    except (OSError, ValueError):
        return 0
    return int(fields.get("total_inactive_file", fields.get("inactive_file", 0)))
