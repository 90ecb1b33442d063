"""A stand-in for tritonserver, and fronts in this process."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from echo_core import Steering
from recording_front import Recorder

from flover_backend.config import ModelJson
from flover_backend.front.client import EngineClient
from flover_backend.runtime_dir import described_engines


class Host:
    """One stand-in server, its model directory, and the fronts that a test attaches."""

    def __init__(self, directory: Path) -> None:
        self.model_dir = directory / "model"
        self.model_dir.mkdir()
        self.runtime_dir = directory / "run" / "flover"
        self.server = subprocess.Popen(["sleep", "600"])
        self.clients: list[EngineClient] = []
        self.log: list[str] = []

    def steer(self, **values: object) -> None:
        (self.model_dir / "fake.json").write_bytes(msgspec.json.encode(Steering(**values)))  # type: ignore[arg-type]

    def connect(self, name: str = "front", config: ModelJson | None = None) -> EngineClient:
        client = EngineClient.connect(
            config or ModelJson(),
            self.model_dir,
            "flover",
            "1",
            self.server.pid,
            name,
            log=self.log.append,
            factory="echo_core:load",
        )
        self.clients.append(client)
        return client

    def attach(self, name: str = "front") -> tuple[EngineClient, Recorder]:
        client, recorder = self.connect(name), Recorder()
        client.start(recorder)
        return client, recorder

    def files(self) -> list[str]:
        return sorted(path.name for path in self.runtime_dir.glob("*"))

    def engine_pids(self) -> list[int]:
        return [description.engine_pid for _, description in described_engines(self.server.pid)]

    def end(self) -> None:
        for client in self.clients:
            client.close()
        self.server.kill()
        self.server.wait()


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s} s"
        time.sleep(0.01)
