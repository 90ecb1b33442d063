"""A client that asks and then reads nothing: its windows stay shut, so that nothing leaves the server for it.

Over gRPC its HTTP/2 window is 0 from the first frame on; over HTTP the socket's receive buffer is as small as the
kernel allows. It never calls `recv`.
"""

from __future__ import annotations

import json
import socket
import struct

from benchmarks.pa.run import Target
from benchmarks.suite.load.calls import Call
from benchmarks.suite.load.wire import METHOD, request_bytes

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, END_STREAM, END_HEADERS = 0x0, 0x1, 0x4, 0x1, 0x4
INITIAL_WINDOW_SIZE = 0x4
RECEIVE_BYTES = 1024
"""Asked for; Linux gives a little more, and a request's responses fill it many times."""


class SilentClient:
    """Two connections, one for each protocol. A context manager."""

    def __init__(self, target: Target, http_url: str) -> None:
        self._target, self._http_url = target, http_url
        self._grpc = _connect(target.url)
        self._http: list[socket.socket] = []
        self._stream = -1
        settings = struct.pack(">HI", INITIAL_WINDOW_SIZE, 0)
        self._grpc.sendall(PREFACE + _frame(SETTINGS, 0, 0, settings))

    def __enter__(self) -> SilentClient:
        return self

    def __exit__(self, *exception: object) -> None:
        for one in (self._grpc, *self._http):
            one.close()

    def ask_grpc(self, call: Call) -> None:
        """A new stream on the one connection."""
        self._stream += 2
        headers = (
            (":method", "POST"),
            (":scheme", "http"),
            (":path", METHOD),
            (":authority", self._target.url),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        )
        message = request_bytes(call, self._target.model)
        self._grpc.sendall(
            _frame(HEADERS, END_HEADERS, self._stream, b"".join(_literal(*header) for header in headers))
            + _frame(DATA, END_STREAM, self._stream, struct.pack(">BI", 0, len(message)) + message)
        )

    def ask_http(self, call: Call) -> None:
        """`/generate_stream`, on a connection of its own."""
        body = {
            "input_ids": list(call.prompt),
            "stream": True,
            "max_tokens": call.new_tokens,
            "temperature": 0.0,
            "ignore_eos": True,
        }
        content = json.dumps(body).encode()
        head = (
            f"POST /v2/models/{self._target.model}/generate_stream HTTP/1.1\r\nHost: {self._http_url}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        self._http.append(_connect(self._http_url))
        self._http[-1].sendall(head.encode() + content)


def _connect(url: str) -> socket.socket:
    host, _, port = url.rpartition(":")
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
    made.connect((host, int(port)))
    return made


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Of HTTP/2 (RFC 9113, section 4.1)."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _literal(name: str, value: str) -> bytes:
    """A header field without indexing and without Huffman coding (RFC 7541, section 6.2.2); both under 127 bytes."""
    encoded = b"\0"
    for part in (name.encode(), value.encode()):
        if len(part) >= 127:
            raise ValueError(f"{part!r} has {len(part)} bytes; under 127 are encoded here")
        encoded += bytes([len(part)]) + part
    return encoded
