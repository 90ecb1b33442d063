"""Whether a server that has no engine to be seen is about to have one. Knows /proc and the files of engines.

Between an engine's death and the publication of the next one there are moments with a socket, or with no file at all.
"""

from __future__ import annotations

import os
from pathlib import Path

from flover_backend.draining import SUCCESSOR_S
from flover_backend.engine_files import EngineFiles, counted_restarts
from flover_backend.runtime_dir import directories_of
from flover_backend.server_processes import engines_of
from flover_backend.stub_memory import arguments_of

STARTING_S = 10.0
"""A process whose socket is there has imported what it needs to publish itself within this time."""
STUB = "triton_python_backend_stub"
PACKAGE = "flover_backend"


def seconds_worth_waiting(server_pid: int) -> float:
    """For how long an engine of this server may stay unseen; 0 when there are no more than are to be seen."""
    if engines_being_started(server_pid):
        return STARTING_S
    is_without = not engines_of(server_pid) and (_has_counted(server_pid) or _has_fronts(server_pid))
    return SUCCESSOR_S if is_without else 0.0


def engines_being_started(server_pid: int) -> list[EngineFiles]:
    """Those whose socket is there and that have not published themselves."""
    sockets = [path for folder in _directories(server_pid) for path in folder.glob(f"{server_pid}-*.sock")]
    files = [EngineFiles(path.parent, path.stem) for path in sockets]
    return [one for one in files if not one.description_path.exists()]


def _has_counted(server_pid: int) -> bool:
    return any(one.server_pid == server_pid for _, one in counted_restarts(_directories(server_pid)))


def _directories(server_pid: int) -> list[Path]:
    try:
        return directories_of(server_pid)
    except OSError:
        return []


def _has_fronts(server_pid: int) -> bool:
    return any(_is_front(int(name), server_pid) for name in os.listdir("/proc") if name.isdigit())


def _is_front(pid: int, server_pid: int) -> bool:
    """A stub of this server whose model.py is this package's."""
    try:
        program, *arguments = arguments_of(pid)
        if Path(program).name != STUB or _parent_of(pid) != server_pid:
            return False
        sources = [Path(f"/proc/{pid}/cwd", one) for one in arguments if one.endswith(".py")]
        return any(PACKAGE in source.read_text(errors="replace") for source in sources)
    except OSError:
        return False


def _parent_of(pid: int) -> int:
    # NOTE: the command's name, before the last bracket, may hold anything.
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
