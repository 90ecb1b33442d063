"""Which tritonserver a tool means, and where its engines are to be found. Knows /proc and the runtime directories."""

from __future__ import annotations

import os
from pathlib import Path

from flover_backend.engine_files import counted_restarts
from flover_backend.errors import ConfigError
from flover_backend.observer import FoundEngine, find_engines
from flover_backend.runtime_dir import directories_of, process_start_ticks, process_user

SERVER_COMMAND = "tritonserver"


def engines_of(server_pid: int) -> list[FoundEngine]:
    """The engines of a server, whose runtime directory may be another user's if root looks; none when it has ended."""
    try:
        directories = directories_of(server_pid)
    except OSError:
        return []
    start = process_start_ticks(server_pid)
    return [engine for engine in find_engines(server_pid, directories) if engine.description.server_start == start]


def servers_with_engines() -> list[int]:
    """Process ids of this user's servers that have an engine, or have had one started again, ascending."""
    seen = [engine.description for engine in find_engines()] + [restarts for _, restarts in counted_restarts()]
    return sorted({one.server_pid for one in seen if process_start_ticks(one.server_pid) == one.server_start})


def own_tritonservers() -> list[int]:
    """Process ids of this user's tritonservers, whatever they serve, ascending."""
    return [pid for pid in _tritonservers() if process_user_or_none(pid) == os.geteuid()]


def check_server(pid: int) -> None:
    """Raise `ConfigError` unless the engines of process `pid` can be reached from here."""
    if process_user_or_none(pid) is None:
        raise ConfigError(
            f"no process {pid} is to be seen from here; give the pid of a tritonserver: pgrep tritonserver"
        )
    if os.geteuid() not in (0, process_user(pid)):
        raise ConfigError(
            f"process {pid} runs as user id {process_user(pid)}, this as {os.geteuid()}, and engines answer their own "
            "user alone: run this as that user, or as root"
        )
    if (inner := _namespaced_pid(pid)) is not None:
        raise ConfigError(
            f"process {pid} lives in a process namespace of its own, as {inner}: run this inside it "
            f"(docker exec, kubectl exec, nsenter --target {pid} --all)"
        )


def foreign_servers() -> list[int]:
    """Process ids of the tritonservers of other users."""
    return [pid for pid in _tritonservers() if process_user_or_none(pid) not in (None, os.geteuid())]


def is_tritonserver(pid: int) -> bool:
    """By the name of its program."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() == SERVER_COMMAND
    except OSError:
        return False


def process_user_or_none(pid: int) -> int | None:
    """None when there is no such process."""
    try:
        return process_user(pid)
    except OSError:
        return None


def _tritonservers() -> list[int]:
    return sorted(int(name) for name in os.listdir("/proc") if name.isdigit() and is_tritonserver(int(name)))


def _namespaced_pid(pid: int) -> int | None:
    """Its number in its own process namespace; None when that is this process's."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    numbers = next((line.split()[1:] for line in lines if line.startswith("NSpid:")), [])
    return int(numbers[-1]) if len(numbers) > 1 else None
