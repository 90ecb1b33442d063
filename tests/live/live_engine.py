"""The engine processes of a live server, as its tests find them."""

from __future__ import annotations

import time
import urllib.error
import urllib.request

from live_server import START_TIMEOUT_S, LiveServer, command_line, is_running
from triton_client import ask

from flover_backend.engine_files import described_engines


def engines_of(server: LiveServer) -> list[int]:
    """An engine outlives the front that started it, so the process tree is not where to look."""
    pids = [description.engine_pid for _, description in described_engines(server.process.pid)]
    return [pid for pid in pids if "flover_backend.engine.process" in command_line(pid)]


def engine_of(server: LiveServer) -> int:
    (pid,) = engines_of(server)
    return pid


def fronts_of(server: LiveServer) -> list[int]:
    """Stubs that live."""
    stubs = [pid for pid in server.descendants() if "triton_python_backend_stub" in command_line(pid)[0]]
    return [pid for pid in stubs if is_running(pid)]


def wait_for_engine(server: LiveServer) -> None:
    """Until every front of the server has an engine again: as many answers in a row as it may have fronts."""
    deadline, answers = time.monotonic() + START_TIMEOUT_S, 0
    while answers < 8:
        assert time.monotonic() < deadline, "the engine did not come back"
        answers = 0 if ask(server.grpc_url, [5], {"max_tokens": 1})[-1].error else answers + 1


def is_ready(server: LiveServer, path: str = "v2/models/flover/ready") -> bool:
    """What a probe sees."""
    try:
        with urllib.request.urlopen(f"{server.http_url}/{path}", timeout=10) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError:
        return False
