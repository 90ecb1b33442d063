"""A front without Triton whose engine is started again when it dies: what it may run again is what had no token."""

from __future__ import annotations

import time

from engine_host import Host
from recording_front import Recorder

from flover_backend.config import ModelJson
from flover_backend.front.rendezvous import EngineSpec
from flover_backend.front.supervisor import EngineSupervisor
from flover_backend.request import Request, SamplingParams


class SupervisedFront(Recorder):
    def __init__(self, host: Host, name: str = "front", **config: object) -> None:
        super().__init__()
        self.lost: list[str] = []
        self.suspects: list[set[int]] = []
        self.restarts: list[str] = []
        self.num_restarted = 0
        self.num_counted = 0
        self.asked: list[Request] = []
        self.sends_tokens = True
        model_json = ModelJson(**config)  # type: ignore[arg-type]
        spec = EngineSpec(model_json, host.model_dir, "flover", "1", host.server.pid, "echo_core:load")
        self.engine = EngineSupervisor(spec, name, host.log.append)
        host.clients.append(self.engine)
        self.engine.start(self)

    def ask(self, prompt_ids: list[int], max_tokens: int = 8) -> Request:
        params = SamplingParams(max_tokens=max_tokens)
        request = Request(
            key=self.engine.next_key(), prompt_ids=prompt_ids, params=params, arrival_time=time.monotonic()
        )
        self.asked.append(request)
        self.engine.submit(request)
        return request

    def on_lost(self, message: str, limit: str, suspects: set[int]) -> None:
        self._record(lambda: self.lost.append(message))
        self.suspects.append(suspects)

    def on_restart(self, message: str, limit: str) -> None:
        self._record(lambda: self.restarts.append(limit))

    def waiting(self) -> list[int]:
        keys = [each.key for each in self.asked if (each.key, 0) not in self.finish and each.key not in self.ended]
        if not self.sends_tokens:
            self.tokens = {}
        return [key for key in keys if (key, 0) not in self.tokens]

    def on_counted(self) -> None:
        def count() -> None:
            self.num_counted += 1

        self._record(count)

    def on_restarted(self) -> None:
        def count() -> None:
            self.num_restarted += 1

        self._record(count)

    def wait_restarted(self, times: int) -> None:
        self.wait(lambda: self.num_restarted == times, f"restart {times}")
