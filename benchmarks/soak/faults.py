"""What is done to a server in the middle of a round. Knows processes and Triton's model control; no outcomes."""

from __future__ import annotations

import enum
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from benchmarks.pa.errors import MeasurementFailed
from benchmarks.through_triton.cpu import family
from flover_backend.observer import find_engines
from flover_backend.server import TritonServer

CONTROL_TIMEOUT_S = 120.0
CLIENT_S = 2.5
"""How long a client lives that is killed: long enough to start and to send."""
ROOT = Path(__file__).resolve().parents[2]


class Fault(enum.Enum):
    """One a round, in this order, over and over."""

    NONE = "nothing"
    CLIENT_KILLED = "a client killed"
    RELOAD = "reload, the engine kept"
    ENGINE_KILLED = "engine killed"
    NEW_ENGINE = "reload, another configuration"
    ENGINE_HUNG = "engine stopped, as if it hung"

    @property
    def ends_an_engine(self) -> bool:
        """Requests that had a token may end with INTERNAL, new ones may be refused for a while."""
        return self in (Fault.ENGINE_KILLED, Fault.ENGINE_HUNG)


def inject(fault: Fault, server: TritonServer, number: int) -> None:
    """Do it; `number`: of the round. Raises `MeasurementFailed` where it cannot be done."""
    match fault:
        case Fault.CLIENT_KILLED:
            _kill_client(server)
        case Fault.ENGINE_KILLED:
            os.kill(_engine(server), signal.SIGKILL)
        case Fault.ENGINE_HUNG:
            os.kill(_engine(server), signal.SIGSTOP)
        case Fault.RELOAD:
            os.utime(_model(server) / "config.pbtxt")
            _load(server)
        case Fault.NEW_ENGINE:
            path = _model(server) / "1" / "model.json"
            content = json.loads(path.read_text())
            path.write_text(json.dumps(content | {"max_queued_tokens": 1_000_000 + number}))
            _load(server)


def _model(server: TritonServer) -> Path:
    return server.folder / "models" / server.options.name


def _engine(server: TritonServer) -> int:
    """The newest, where one is on its way out."""
    engines = [engine.description.engine_pid for engine in find_engines(server.pid)]
    if not engines:
        raise MeasurementFailed("the server has no engine")
    return max(engines, key=lambda pid: os.stat(f"/proc/{pid}").st_ctime)


def _load(server: TritonServer) -> None:
    url = f"http://{server.http_url}/v2/repository/models/{server.options.name}/load"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, b"{}", method="POST"), timeout=CONTROL_TIMEOUT_S):
            pass
    except (urllib.error.URLError, OSError) as error:
        text = error.read().decode() if isinstance(error, urllib.error.HTTPError) else str(error)
        raise MeasurementFailed(f"the model was not loaded again: {text}") from None


def _kill_client(server: TritonServer) -> None:
    """A load generator with requests that stream and requests that wait, and its processes."""
    command = (sys.executable, "-m", "benchmarks.load", "--url", server.grpc_url, "--name", server.options.name)
    asked = ("--requests", "12", "--rate", "0", "--output-tokens", "400", "--processes", "1")
    client = subprocess.Popen([*command, *asked], cwd=ROOT, stdout=subprocess.DEVNULL)
    time.sleep(CLIENT_S)
    for pid in reversed(family(client.pid)):
        os.kill(pid, signal.SIGKILL)
    client.wait()
