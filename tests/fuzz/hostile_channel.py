"""Malformed bytes on the engine's own socket, as a process of the same user could send them."""

from __future__ import annotations

import os
import random
import socket
import struct
import time
from typing import Any

import msgspec

from flover_backend.channel import (
    Cancel,
    Finish,
    FrameReader,
    FrontStats,
    GetIterations,
    GetMetrics,
    Hello,
    Metrics,
    MetricsWritten,
    Ready,
    Submit,
    ToEngine,
    encode,
)
from flover_backend.observer import FoundEngine
from flover_backend.request import Request, SamplingParams

ANSWER_TIMEOUT_S = 120
HARMFUL = (b"drain",)
"""A good Drain drains the server, as it should; a front has the right to say FrontStats, so the counters may lie."""


class ChannelPeer:
    """A connection a request."""

    def __init__(self, engine: FoundEngine) -> None:
        self._engine = engine

    def send(self, chance: random.Random) -> str:
        """`answered`, `closed` (dropped for what it sent), or `unanswered: why`."""
        connection = self._engine.files.connect()
        if connection is None:
            return "unanswered: the engine is gone"
        with connection:
            connection.settimeout(ANSWER_TIMEOUT_S)
            try:
                return _talk(connection, chance)
            except TimeoutError:
                return f"unanswered: nothing within {ANSWER_TIMEOUT_S} s"
            except ConnectionError:
                return "closed"

    def close(self) -> None:
        """Nothing is kept."""


def _talk(connection: socket.socket, chance: random.Random) -> str:
    role = chance.choice(("front", "front", "observer"))
    hello = encode(Hello(role, "fuzz", os.getpid()))
    if chance.random() < 0.1:
        hello = _damaged(hello, chance)
    reader = FrameReader(engine_side=False)
    connection.sendall(hello)
    number = _number(connection, reader, hello)
    if number is None:
        return "closed"
    stream = b"".join(_frame(chance, number) for _ in range(chance.randint(1, 5)))
    # The engine answers GetMetrics last, unless what came before it had this peer dropped.
    stream += encode(GetMetrics())
    connection.sendall(stream)
    if _is_cut(stream):
        connection.shutdown(socket.SHUT_WR)
    while data := connection.recv(1 << 16):
        if any(isinstance(message, Metrics) for message in reader.feed(data)):
            return "answered"
    return "closed"


def _is_cut(stream: bytes) -> bool:
    """A length in it is longer than what there is: the engine waits for the rest."""
    reader = FrameReader(engine_side=True)
    try:
        last = reader.feed(stream)[-1:]
    except ValueError:
        return False
    return not last or not isinstance(last[0], GetMetrics)


def _number(connection: socket.socket, reader: FrameReader, hello: bytes) -> int | None:
    """What the engine calls this peer; None when it was dropped, or its hello never ends."""
    whole = len(hello) >= 4 and struct.unpack_from("<I", hello)[0] <= len(hello) - 4
    if not whole:
        connection.shutdown(socket.SHUT_WR)
    while data := connection.recv(1 << 16):
        for message in reader.feed(data):
            if isinstance(message, Ready):
                return message.info.front_number
    return None


def _frame(chance: random.Random, number: int) -> bytes:
    kind = chance.random()
    frame = encode(_message(chance, number))
    if kind < 0.4:
        frame = _damaged(frame, chance)
    elif kind < 0.5:
        body = chance.randbytes(chance.randint(0, 60))
        frame = struct.pack("<I", chance.choice((len(body), len(body) + 9, 2**32 - 1, 0))) + body
    return encode(GetMetrics()) if any(word in frame for word in HARMFUL) else frame


def _damaged(frame: bytes, chance: random.Random) -> bytes:
    data = bytearray(frame)
    for _ in range(chance.randint(1, 5)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    return bytes(data)


def _integer(chance: random.Random) -> int:
    return chance.choice((0, 1, -1, 5, 2**31, 2**40, -(2**63), 2**63, 2**64 - 1, chance.randint(-99, 2000)))


def _real(chance: random.Random) -> float:
    return chance.choice((0.0, 1.0, -1.0, 0.5, float("nan"), float("inf"), -float("inf"), 1e308))


def _message(chance: random.Random, number: int) -> ToEngine:
    key = chance.choice(((number << 40) + chance.randrange(3), (1 << 40) + 1, (2 << 40) + 7, _integer(chance)))
    kind = chance.randrange(9)
    if kind < 5:
        params: dict[str, Any] = {"max_tokens": chance.choice((1, 3, _integer(chance)))}
        for _ in range(chance.randrange(3)):
            params |= _parameter(chance)
        ids = [chance.choice((5, 6, _integer(chance))) for _ in range(chance.choice((0, 1, 3, 300)))]
        arrival = chance.choice((time.monotonic(), _real(chance)))
        deadline = chance.choice((None, None, _real(chance)))
        given = SamplingParams(**params)
        return Submit(Request(key=key, prompt_ids=ids, params=given, arrival_time=arrival, deadline=deadline))
    if kind == 5:
        return Cancel(key)
    if kind == 6:
        return Finish(key, _integer(chance), abs(_integer(chance)))
    if kind == 7:
        return chance.choice((MetricsWritten(_integer(chance)), GetIterations(_integer(chance))))
    return FrontStats(abs(_integer(chance)) % 5, {chance.choice(("internal", "x")): 1})


def _parameter(chance: random.Random) -> dict[str, Any]:
    name = chance.choice(SamplingParams.__struct_fields__)
    if name == "stop_token_ids":
        return {name: tuple(_integer(chance) for _ in range(chance.randrange(80)))}
    if name == "logit_bias":
        return {name: {_integer(chance): _real(chance) for _ in range(chance.randrange(4))}}
    if isinstance(getattr(_DEFAULTS, name), float):
        return {name: _real(chance)}
    return {name: chance.random() < 0.5} if isinstance(getattr(_DEFAULTS, name), bool) else {name: _integer(chance)}


_DEFAULTS = msgspec.structs.replace(SamplingParams(max_tokens=1))
