"""Malformed HTTP requests, byte by byte, and what the server does with each."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import struct
from typing import Any

ANSWER_TIMEOUT_S = 120
MODEL = "/v2/models/flover"
PATHS = (f"{MODEL}/generate", f"{MODEL}/generate_stream", f"{MODEL}/infer", f"{MODEL}/versions/1/infer")
ODD_PATHS = (
    *("/", "/v2/models/flover", "/v2/models//infer", f"{MODEL}/versions/x/infer", "/v2/models/%00/generate", "*"),
    *(f"{MODEL}/generate/../infer", f"{MODEL}/" + "a" * 4000, "/v2/models/nobody/generate", f"{MODEL}/generate?x=%zz"),
)
KEYS = (
    *("text_input", "max_tokens", "temperature", "stream", "stop", "sampling_parameters", "input_ids", "seed", "n"),
    *("logit_bias", "unknown", "id", "parameters", "return_logprobs", "deadline_ms", "", "text_output", "\u2028"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 5, 2**31, 2**63, -(2**63), 2**64, 10**30, 0.5, 1e308, "", "Hi", "nan", "\ud800"),
    *(
        [],
        [1],
        [[1]],
        ["a"] * 100,
        {},
        {"a": 1},
        "x" * 40_000,
        '{"n": 0}',
        "{" * 50,
        '{"max_tokens": "' + "9" * 9000 + 'x"}',
    ),
)
GOOD = {"text_input": "Hi", "max_tokens": 3}
DEPTHS = (9, 60, 1500, 20_000)
"""Of nesting. Far deeper JSON is read by Triton alone, before any backend sees it (docs/security.md)."""


class HttpPeer:
    """A connection a request."""

    def __init__(self, port: int) -> None:
        self._port = port

    def send(self, chance: random.Random) -> str:
        """`tokens`, `refused`, `closed` (by Triton's own rule, without a word), or `unanswered: why`."""
        data, is_whole = malformed(chance)
        with socket.create_connection(("127.0.0.1", self._port), timeout=ANSWER_TIMEOUT_S) as connection:
            try:
                connection.sendall(data)
                if not is_whole:  # the rest of it never comes
                    with contextlib.suppress(OSError):
                        connection.shutdown(socket.SHUT_WR)
                answer = _read(connection)
            except TimeoutError:
                return f"unanswered: nothing within {ANSWER_TIMEOUT_S} s to {data[:200]!r}"
            except ConnectionError:
                return "closed"
        if not answer:
            return "closed"
        if not answer.startswith(b"HTTP/"):
            return f"unanswered: {answer[:100]!r}"
        return "tokens" if answer[9:12] == b"200" else "refused"

    def close(self) -> None:
        """Nothing is kept."""


def _read(connection: socket.socket) -> bytes:
    """The answer up to its end: the connection is closed, or its Content-Length is there."""
    answer = b""
    while True:
        piece = connection.recv(1 << 16)
        answer += piece
        head, gap, body = answer.partition(b"\r\n\r\n")
        if not piece or (gap and _length(head) is not None and len(body) >= (_length(head) or 0)):
            return answer


def _length(head: bytes) -> int | None:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return None


def malformed(chance: random.Random) -> tuple[bytes, bool]:
    """The bytes, and whether they are a whole request as far as HTTP goes."""
    path = chance.choice(PATHS)
    if path.endswith("infer"):
        body, extra = _infer(chance)
    else:
        body, extra = _generate(chance), []
    if chance.random() < 0.15:
        body = _damaged(body, chance)
    method, version = "POST", "HTTP/1.1"
    length = str(len(body))
    is_whole = True
    kind = chance.randrange(24)
    if kind == 0:
        path = chance.choice(ODD_PATHS)
    elif kind == 1:
        method = chance.choice(("GET", "PUT", "DELETE", "BREW", "post", ""))
    elif kind == 2:
        version, is_whole = chance.choice(("HTTP/9.9", "HTTP/1.1x", "")), False
    elif kind == 3:
        length, is_whole = str(len(body) + chance.choice((1, 10, 5000))), False
    elif kind == 4:
        length, is_whole = chance.choice(("-1", "x", "1e3", "0x10", "18446744073709551616", " ")), False
    elif kind == 5:
        extra, is_whole = [*extra, "X-Long: " + "a" * chance.choice((1000, 9000, 70_000, 300_000))], False
    elif kind == 6:
        extra, is_whole = [*extra, *(f"X-{i}: {i}" for i in range(chance.choice((50, 600, 4000))))], False
    elif kind == 7:
        extra = [*extra, f"Content-Encoding: {chance.choice(('gzip', 'deflate', 'br', 'x'))}"]
    elif kind == 8:
        extra, is_whole = [*extra, "Expect: 100-continue", "Content-Length: 3"], False
    elif kind == 9:
        extra, is_whole = [*extra, chance.choice((": novalue", "no colon", "A\0B: c", "\tfolded"))], False
    lines = [f"{method} {path} {version}", "Host: x", "Connection: close", f"Content-Length: {length}", *extra]
    return "\r\n".join(lines).encode("utf-8", "replace") + b"\r\n\r\n" + body, is_whole


def _generate(chance: random.Random) -> bytes:
    fields: dict[str, Any] = dict(GOOD)
    for _ in range(chance.choice((1, 1, 2, 4))):
        fields[chance.choice(KEYS)] = chance.choice(VALUES)
    if chance.random() < 0.1:
        fields.pop("text_input", None)
    body: Any = fields if chance.random() < 0.9 else chance.choice(VALUES)
    text = json.dumps(body)
    if chance.random() < 0.08:
        depth = chance.choice(DEPTHS)
        text = text[:-1] + ', "stop": ' + "[" * depth + "]" * depth + "}"
    return text.encode()


def _infer(chance: random.Random) -> tuple[bytes, list[str]]:
    """Triton's /infer, where a decoupled model gets an error of Triton's; JSON data, or binary behind the JSON."""
    entry: dict[str, Any] = {"name": "input_ids", "datatype": "INT32", "shape": [3], "data": [5, 6, 7]}
    for _ in range(chance.randint(0, 2)):
        entry[chance.choice(("name", "datatype", "shape", "data", "parameters"))] = chance.choice(VALUES)
    body: dict[str, Any] = {"inputs": [entry]}
    if chance.random() < 0.3:
        body[chance.choice(("inputs", "outputs", "id", "parameters"))] = chance.choice(VALUES)
    if chance.random() < 0.6:
        return json.dumps(body).encode(), []
    binary = struct.pack("<3i", 5, 6, 7)
    entry.pop("data", None)
    entry["parameters"] = {"binary_data_size": chance.choice((12, 0, -1, 11, 4096, 2**62, "12"))}
    text = json.dumps(body).encode()
    header = chance.choice((str(len(text)), str(len(text)), "0", "-1", str(len(text) + 5), "x", str(2**63), "1"))
    return text + binary, [f"Inference-Header-Content-Length: {header}"]


def _damaged(body: bytes, chance: random.Random) -> bytes:
    data = bytearray(body)
    for _ in range(chance.randint(1, 4)):
        if data:
            data[chance.randrange(len(data))] = chance.randrange(256)
    return bytes(data[: chance.randrange(len(data) + 1)] if chance.random() < 0.3 else data)
