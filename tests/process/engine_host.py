"""A stand-in for tritonserver, and fronts: in this process, or in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from echo_core import Steering
from recording_front import Recorder

from flover_backend.config import ModelJson
from flover_backend.front.client import EngineClient
from flover_backend.front.supervisor import EngineSupervisor
from flover_backend.observer import EngineObserver, find_engines

HERE = Path(__file__).parent


class FrontProcess:
    """A front in a process of its own (front_process.py)."""

    def __init__(self, model_dir: Path, server_pid: int, name: str, num_requests: int, max_tokens: int) -> None:
        arguments = [model_dir, server_pid, name, num_requests, max_tokens]
        self.process = subprocess.Popen(
            [sys.executable, HERE / "front_process.py", *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(HERE.parent.parent)},
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def engine_pid(self) -> int:
        word, pid, _ = self.line().split()
        assert word == "ready"
        return int(pid)

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def result(self) -> dict[str, Any]:
        return json.loads(self.line())  # type: ignore[no-any-return]

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


class Host:
    """One stand-in server, its model directory, and the fronts that a test attaches."""

    def __init__(self, directory: Path) -> None:
        self.model_dir = directory / "model"
        (self.model_dir / "steering").mkdir(parents=True)
        self.runtime_dir = directory / "run" / "flover"
        self.server = subprocess.Popen(["sleep", "600"])
        self.clients: list[EngineClient | EngineSupervisor] = []
        self.fronts: list[FrontProcess] = []
        self.log: list[str] = []

    def steer(self, **values: object) -> None:
        (self.model_dir / "steering" / "fake.json").write_bytes(msgspec.json.encode(Steering(**values)))  # type: ignore[arg-type]

    def connect(
        self,
        name: str = "front",
        config: ModelJson | None = None,
        factory: str = "echo_core:load",
        model_dir: Path | None = None,
    ) -> EngineClient:
        client = EngineClient.connect(
            config or ModelJson(),
            model_dir or self.model_dir,
            "flover",
            "1",
            self.server.pid,
            name,
            log=self.log.append,
            factory=factory,
        )
        self.clients.append(client)
        return client

    def attach(self, name: str = "front") -> tuple[EngineClient, Recorder]:
        client, recorder = self.connect(name), Recorder()
        client.start(recorder)
        return client, recorder

    def spawn_front(self, name: str, num_requests: int = 0, max_tokens: int = 8) -> FrontProcess:
        self.fronts.append(FrontProcess(self.model_dir, self.server.pid, name, num_requests, max_tokens))
        return self.fronts[-1]

    def observe(self) -> EngineObserver:
        (engine,) = find_engines(self.server.pid)
        return EngineObserver.connect(engine)

    def files(self) -> list[str]:
        return sorted(path.name for path in self.runtime_dir.glob("*"))

    def engine_pids(self) -> list[int]:
        return [engine.description.engine_pid for engine in find_engines(self.server.pid)]

    def kill_server(self) -> None:
        self.server.kill()
        self.server.wait()

    def restart_server(self) -> None:
        """Another one, after the first was killed."""
        self.server = subprocess.Popen(["sleep", "600"])

    def end(self) -> None:
        for client in self.clients:
            client.close()
        for front in self.fronts:
            front.end()
        self.kill_server()


@contextmanager
def private_host(directory: Path, setenv: Callable[[str, str], None]) -> Iterator[Host]:
    """A host whose engines have their files in `directory`; ended with all of its processes."""
    runtime = directory / "run"
    runtime.mkdir(mode=0o700)
    setenv("XDG_RUNTIME_DIR", str(runtime))
    host = Host(directory)
    try:
        yield host
    finally:
        host.end()


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s} s"
        time.sleep(0.01)


def is_stopped(pid: int) -> bool:
    """All of its threads."""
    states = [path.read_text().rpartition(")")[2].split()[0] for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    return set(states) == {"T"}


def is_running(pid: int) -> bool:
    """A zombie does not run."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
