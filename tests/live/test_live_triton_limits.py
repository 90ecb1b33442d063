"""What ends Triton 24.10 itself, shown on a bare server without any model: docs/security.md says what helps."""

from __future__ import annotations

import contextlib
import signal
import socket
import urllib.request

import pytest
from live_server import LiveServer, StartServer, wait_for

pytestmark = pytest.mark.slow
INDEX = "/v2/repository/index"


@pytest.fixture
def bare(start_server: StartServer) -> LiveServer:
    server = start_server(control=("--model-control-mode=explicit",))
    wait_for(lambda: is_live(server), timeout_s=60)
    return server


def is_live(server: LiveServer) -> bool:
    try:
        with urllib.request.urlopen(f"{server.http_url}/v2/health/live", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def send(server: LiveServer, head: str, body: bytes) -> bytes:
    """The first bytes of the answer; none when the server broke off."""
    head = f"POST {INDEX} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{head}\r\n\r\n"
    with (
        contextlib.suppress(ConnectionError),
        socket.create_connection(("127.0.0.1", server.http_port), timeout=120) as connection,
    ):
        connection.sendall(head.encode() + body)
        return connection.recv(4096)
    return b""


def chunked(count: int) -> bytes:
    return b"1\r\n[\r\n" * count + b"0\r\n\r\n"


def test_json_nested_a_million_deep(bare: LiveServer) -> None:
    for depth in (10, 10_000):
        assert b" 500 " in send(bare, f"Content-Length: {depth}", b"[" * depth).splitlines()[0]
    assert is_live(bare)
    assert send(bare, "Content-Length: 3000000", b"[" * 3_000_000) == b""
    assert bare.process.wait(60) == -signal.SIGSEGV


def test_a_body_in_a_million_chunks(bare: LiveServer) -> None:
    assert b" 200 " in send(bare, "Transfer-Encoding: chunked", b"2\r\n{}\r\n0\r\n\r\n").splitlines()[0]
    assert send(bare, "Transfer-Encoding: chunked", chunked(1_000_000)) == b""
    assert bare.process.wait(120) == -signal.SIGSEGV
