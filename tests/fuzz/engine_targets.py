"""Bytes as what two fronts and a tool say to the engine, in any order and with any values, around a real engine on a
tiny model: no message ends it, everybody is answered once, nothing leaks, and a good request gets its tokens.
"""

from __future__ import annotations

import queue
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import tiny_llama
from cursor import Cursor
from lone import make_engine
from small_info import INFO

from flover_backend.channel import (
    Cancel,
    Drain,
    Drained,
    Ended,
    Finish,
    FrontStats,
    GetIterations,
    GetMetrics,
    Hello,
    Metrics,
    MetricsWritten,
    Refused,
    Submit,
    ToEngine,
    ToFront,
    Tokens,
)
from flover_backend.engine.connections import Attached, Detached
from flover_backend.engine.service import EngineService
from flover_backend.models.batch import Model
from flover_backend.request import Request, SamplingParams

NOW = 1000.0
FRONTS, OBSERVER = (1, 2), 3
GOOD = (FRONTS[1] << 40) + 999
MAX_TURNS = 2000


class Wires:
    """The engine's `Connections` without sockets."""

    def __init__(self) -> None:
        self.inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.sent: list[tuple[int, ToFront]] = []

    def post(self, number: int, message: ToFront) -> None:
        msgspec.msgpack.encode(message)
        self.sent.append((number, message))

    def broadcast(self, message: ToFront) -> None:
        for number in FRONTS:
            self.post(number, message)


_models: list[Model] = []


def model() -> Model:
    if not _models:
        with tempfile.TemporaryDirectory() as folder:
            _models.append(tiny_llama.load(tiny_llama.write(Path(folder) / "tiny")))
    return _models[0]


def drive(data: bytes) -> None:
    cursor, wires = Cursor(data), Wires()
    engine = make_engine(model(), max_rows=4, num_blocks=24, budget=16, clock=lambda: NOW)
    info = msgspec.structs.replace(INFO, vocab_size=model().vocab_size, max_rows=4, num_blocks=24, block_size=8)
    service = EngineService(engine, info, wires, clock=lambda: NOW)  # type: ignore[arg-type]
    for number in (*FRONTS, OBSERVER):
        role = "observer" if number == OBSERVER else "front"
        wires.inbox.put((number, Attached(Hello(role, "fuzz", 1))))
    submitted: Counter[tuple[int, int]] = Counter()
    for _ in range(40):
        if cursor.is_at_end:
            break
        number, message = 1 + cursor.below(3), _message(cursor)
        if isinstance(message, Submit):
            submitted[number, message.request.key] += 1
        wires.inbox.put((number, message))
        if cursor.below(3) == 0:
            _turns(service, wires, 1 + cursor.below(8))
    wires.inbox.put((FRONTS[0], Detached()))
    good = SamplingParams(max_tokens=3, temperature=0.0, ignore_eos=True)
    wires.inbox.put((FRONTS[1], Submit(Request(key=GOOD, prompt_ids=[5, 6], params=good, arrival_time=NOW))))
    _turns(service, wires, MAX_TURNS)
    assert not engine.has_work, "the engine does not come to rest"
    engine.check_integrity()
    _check_answers(wires.sent, submitted)
    _check_metrics(service, wires)


def _turns(service: EngineService, wires: Wires, most: int) -> None:
    """Not on an idle engine without mail: that would wait."""
    for _ in range(most):
        if wires.inbox.empty() and not service._core.has_work:
            return
        service.turn()


def _check_answers(sent: list[tuple[int, ToFront]], submitted: Counter[tuple[int, int]]) -> None:
    """Each Submit of front 2, which stayed, had one end for each time it was sent; the good one its tokens."""
    ends: Counter[int] = Counter()
    sequences: Counter[tuple[int, int]] = Counter()
    tokens: list[int] = []
    for number, message in sent:
        if isinstance(message, Tokens):
            for key, index, ids, finish in zip(
                message.keys, message.indexes, message.token_ids, message.finish, strict=True
            ):
                assert key >> 40 == number, "another front's tokens"
                sequences[key, index] += finish != 0
                tokens += ids if key == GOOD else []
        elif isinstance(message, Ended | Refused):
            ends[message.key] += number == FRONTS[1]
    assert max(sequences.values(), default=0) <= 1 or any(count > 1 for count in submitted.values())
    refused_good = [m for _, m in sent if isinstance(m, Refused) and m.key == GOOD]
    assert len(tokens) == 3 or (refused_good and refused_good[0].code == "UNAVAILABLE"), refused_good
    for (number, key), times in submitted.items():
        if number == FRONTS[1]:
            ended = ends[key] + bool(sequences[key, 0])
            assert ended >= 1, f"{times} of {key} unanswered"


def _check_metrics(service: EngineService, wires: Wires) -> None:
    wires.sent.clear()
    wires.inbox.put((FRONTS[1], GetMetrics()))
    _turns(service, wires, 5)
    (metrics,) = [message for _, message in wires.sent if isinstance(message, Metrics)][:1]
    assert metrics.gauges["flover_kv_blocks_used"] == 0
    assert all(0 <= value < float("inf") for value in metrics.counters.values()), "a counter is not one"
    assert metrics.counters["flover_integrity_failures_total"] == 0
    assert not any(isinstance(message, Drained) and message.finished < 0 for _, message in wires.sent)


def _message(cursor: Cursor) -> ToEngine:
    kind = cursor.below(16)
    if kind < 8:
        return Submit(_request(cursor))
    if kind < 10:
        return Cancel(_key(cursor))
    if kind < 12:
        return Finish(_key(cursor), cursor.integer(), abs(cursor.integer()))
    if kind == 12:
        return FrontStats(abs(cursor.integer()), {cursor.string().decode("latin-1")[:9]: abs(cursor.integer())})
    if kind == 13:
        return MetricsWritten(cursor.integer())
    if kind == 14:
        return Drain(abs(cursor.real())) if cursor.byte() == 255 else GetMetrics()
    return GetIterations(cursor.integer())


def _key(cursor: Cursor) -> int:
    number = cursor.below(5)
    return cursor.integer() if number == 0 else (number << 40) + cursor.below(4)


def _request(cursor: Cursor) -> Request:
    ids = [cursor.byte() % 101 for _ in range(1 + cursor.below(24))]
    if cursor.byte() > 240:
        ids[0] = cursor.integer()
    params: dict[str, Any] = {"max_tokens": 1 + cursor.below(12)}
    for _ in range(cursor.below(4)):
        name = cursor.choice(SamplingParams.__struct_fields__)
        params[name] = _value(cursor, name)
    arrival = NOW if cursor.byte() < 240 else cursor.real()
    deadline = None if cursor.byte() < 224 else NOW + cursor.real()
    return Request(
        key=_key(cursor),
        prompt_ids=ids,
        params=SamplingParams(**params),
        arrival_time=arrival,
        deadline=deadline,
        has_stop_strings=cursor.below(2) == 1,
    )


def _value(cursor: Cursor, name: str) -> Any:
    if name == "stop_token_ids":
        return tuple(cursor.integer() if cursor.below(4) == 0 else cursor.below(101) for _ in range(cursor.below(5)))
    if name == "logit_bias":
        return {cursor.integer() if cursor.below(4) == 0 else cursor.below(101): cursor.real() for _ in range(3)}
    if name in ("ignore_eos", "cumulative_logprob"):
        return cursor.below(2) == 1
    if name in ("temperature", "top_p", "min_p") or name.endswith("penalty"):
        return cursor.below(101) / 100 if cursor.below(2) else cursor.real()
    return cursor.below(5) if cursor.below(2) else cursor.integer()
