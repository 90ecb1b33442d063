"""What a front is told of an iteration begins with the first tokens, in fronts that have some before the others."""

from __future__ import annotations

import queue
import time
from pathlib import Path
from typing import Any

import echo_core

from flover_backend.channel import Hello, Submit, ToFront, Tokens
from flover_backend.config import ModelJson
from flover_backend.engine.peer import Attached
from flover_backend.engine.service import EngineService
from flover_backend.request import Request, SamplingParams

FRONTS = (1, 2)


class Wires:
    """The engine's `Connections` without sockets."""

    def __init__(self) -> None:
        self.inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.sent: list[tuple[int, ToFront]] = []

    def post(self, number: int, message: ToFront) -> None:
        self.sent.append((number, message))

    def broadcast(self, message: ToFront) -> None:
        for number in FRONTS:
            self.post(number, message)

    def submit(self, front: int, serial: int, max_tokens: int) -> int:
        key = (front << 40) + serial
        params = SamplingParams(max_tokens=max_tokens, temperature=0.0)
        self.inbox.put(
            (front, Submit(Request(key=key, prompt_ids=[serial], params=params, arrival_time=time.monotonic())))
        )
        return key


def tokens_of_a_turn(service: EngineService, wires: Wires) -> list[tuple[int, list[int]]]:
    """(front, keys) of each message of tokens."""
    wires.sent.clear()
    service.turn()
    return [(front, message.keys) for front, message in wires.sent if isinstance(message, Tokens)]


def test_first_tokens_are_told_before_everybody_elses_next(tmp_path: Path) -> None:
    core, info = echo_core.load(ModelJson(), tmp_path, lambda stage, fraction: None)
    wires = Wires()
    service = EngineService(core, info, wires)  # type: ignore[arg-type]
    for front in FRONTS:
        wires.inbox.put((front, Attached(Hello("front", "test", 1))))
    running = [wires.submit(1, 1, 9), wires.submit(1, 2, 9), wires.submit(2, 1, 9)]
    service.turn()
    assert tokens_of_a_turn(service, wires) == [(1, running[:2]), (2, running[2:])]
    late = [wires.submit(2, 5, 9), wires.submit(2, 6, 1)]
    assert tokens_of_a_turn(service, wires) == [(2, [*late, running[2]]), (1, running[:2])]
    assert tokens_of_a_turn(service, wires) == [(1, running[:2]), (2, [running[2], late[0]])]
