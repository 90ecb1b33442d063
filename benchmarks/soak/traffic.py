"""The requests of a round, from a seed: plain data for the load generator. Knows the contract's tensors, no server."""

from __future__ import annotations

import enum
import json
import random
import struct
from dataclasses import dataclass
from typing import Any

from tritonclient.grpc import service_pb2

from benchmarks.suite.load.calls import Call

WORDS = (
    "the",
    "river",
    "and",
    "a",
    "small",
    "house",
    "under",
    "old",
    "trees",
    "where",
    "children",
    "play",
    "at",
    "night",
)
SHORT, LONG = (4, 60), (60, 160)
CANCELLED, CANCELLED_BY = (400, 600), 60
"""Tokens of an answer that is cancelled, and after how many at the latest."""
BURST_AT = 0.4
"""Of a round's time."""
VOCAB_SIZE = 1000


class Kind(enum.Enum):
    """What is special about a request."""

    PLAIN = "plain"
    SEVERAL = "n of 2 or 3"
    STOP = "stop string"
    LOGPROBS = "logprobs"
    DEADLINE = "deadline"
    CANCELLED = "to be cancelled"
    BAD = "bad"
    """Refused with INVALID_ARG or by Triton's core."""


SHARES = {
    Kind.PLAIN: 34,
    Kind.SEVERAL: 12,
    Kind.STOP: 12,
    Kind.LOGPROBS: 10,
    Kind.DEADLINE: 8,
    Kind.CANCELLED: 14,
    Kind.BAD: 10,
}


@dataclass(frozen=True, slots=True)
class Planned:
    """A request, and what is expected of it."""

    request_id: str
    kind: Kind
    call: Call
    most_tokens: int
    """Of all its sequences together; exactly so many unless a stop string, a deadline or a cancel ends it."""


def plan_round(
    number: int, seconds: float, rate: float, burst: int, seed: int, model: str, *, engine_dies: bool = False
) -> list[Planned]:
    """Poisson arrivals of `rate` a second, and `burst` requests at once after two fifths of the time.

    Nobody cancels just as the last response may come, an error's least of all: where the two meet, Triton 24.10 never
    lets go of that version of the model (docs/operations.md, Reload). So cancels at once come before the burst, others
    early in an answer so long that a client late by a second still comes in time; and where the engine is to die
    (`engine_dies`), whose requests end with errors then, all of them come well before.
    """
    source = random.Random(f"soak {seed} {number}")
    times, at = [], source.expovariate(rate)
    while at < seconds:
        times.append(at)
        at += source.expovariate(rate)
    times = sorted(times + [BURST_AT * seconds] * burst)
    kinds, shares = list(SHARES), list(SHARES.values())
    planned = []
    for count, when in enumerate(times):
        kind = source.choices(kinds, shares)[0]
        if kind is Kind.CANCELLED and engine_dies and when > BURST_AT / 2 * seconds:
            kind = Kind.PLAIN
        planned.append(_planned(f"soak-{number}-{count}", kind, when, when < BURST_AT * seconds, source, model))
    return planned


def _planned(request_id: str, kind: Kind, at: float, is_calm: bool, source: random.Random, model: str) -> Planned:
    max_tokens = source.randint(*(LONG if source.random() < 0.2 else SHORT))
    n = source.randint(2, 3) if kind is Kind.SEVERAL else 1
    streams = source.random() < 0.6
    parameters: dict[str, Any] = {"max_tokens": max_tokens, "ignore_eos": kind is not Kind.STOP}
    if source.random() < 0.5:
        parameters["temperature"] = 0
    else:
        parameters |= {"temperature": 0.9, "top_p": 0.95, "seed": source.getrandbits(40)}
    flags = {"stream": streams, "return_finish_reason": True}
    cancel_after = None
    match kind:
        case Kind.SEVERAL:
            parameters["n"] = n
        case Kind.STOP:
            parameters["stop"] = source.sample(["e", "th", " a", "\n", "zzz"], 2)
        case Kind.LOGPROBS:
            parameters["logprobs"] = source.randint(0, 5)
            flags["return_logprobs"] = True
        case Kind.DEADLINE:
            parameters["deadline_ms"] = source.randint(20, 900)
        case Kind.CANCELLED:
            parameters["max_tokens"] = max_tokens = source.randint(*CANCELLED)
            streams = flags["stream"] = streams or not is_calm
            cancel_after = source.randint(0 if is_calm else 1, CANCELLED_BY) if streams else 0
    prompt: str | list[int] = [source.randrange(3, VOCAB_SIZE) for _ in range(source.randint(1, 120))]
    if kind is Kind.STOP or source.random() < 0.4:
        prompt = " ".join(source.choices(WORDS, k=source.randint(1, 40)))
    message = _message(model, request_id, prompt, parameters, flags)
    if kind is Kind.BAD:
        _spoil(message, source, parameters)
    call = Call(at, (), max_tokens, streams, cancel_after, message=message.SerializeToString())
    return Planned(request_id, kind, call, n * max_tokens)


def _message(
    model: str, request_id: str, prompt: str | list[int], parameters: dict[str, Any], flags: dict[str, bool]
) -> Any:
    message = service_pb2.ModelInferRequest(model_name=model, id=request_id)
    if isinstance(prompt, str):
        _add(message, "text_input", "BYTES", _bytes(prompt.encode()), 1)
    else:
        _add(message, "input_ids", "INT32", struct.pack(f"<{len(prompt)}i", *prompt), len(prompt))
    _add(message, "sampling_parameters", "BYTES", _bytes(json.dumps(parameters).encode()), 1)
    for name, value in flags.items():
        _add(message, name, "BOOL", struct.pack("<?", value), 1)
    return message


def _add(message: Any, name: str, datatype: str, raw: bytes, length: int) -> None:
    message.inputs.add(name=name, datatype=datatype, shape=[length])
    message.raw_input_contents.append(raw)


def _bytes(value: bytes) -> bytes:
    return struct.pack("<I", len(value)) + value


def _spoil(message: Any, source: random.Random, parameters: dict[str, Any]) -> None:
    """Make it one that must be refused."""
    wrong: list[Any] = [
        parameters | {"max_tokens": 10**6},
        parameters | {"temperature": -1},
        parameters | {"top_p": "high"},
        parameters | {"max_tokenz": 3},
        parameters | {"n": 999},
        parameters | {"stop": [""]},
        [parameters],
        "x" * 200,
    ]
    choice = source.randrange(len(wrong) + 4)
    if choice < len(wrong):
        message.raw_input_contents[1] = _bytes(json.dumps(wrong[choice]).encode())
    elif choice == len(wrong):
        message.raw_input_contents[1] = _bytes(b'{"max_tokens": 3' + b"[" * 3000)
    elif choice == len(wrong) + 1:
        message.raw_input_contents[0] = b"\xff" * len(message.raw_input_contents[0])  # Triton's core may refuse it
    elif choice == len(wrong) + 2:
        _add(message, "no_such_tensor", "INT32", struct.pack("<i", 1), 1)
    else:
        message.inputs[1].datatype = "INT32"
