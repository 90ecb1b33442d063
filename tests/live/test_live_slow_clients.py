"""Clients that read nothing: nobody else is slowed, their requests end like others, and what they left unread waits."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from live_metrics import num_ended, series, wait_idle, wait_settled
from live_server import LiveServer, wait_for
from triton_client import Call, arrays_of, ask, ids_of, open_http

LONG = {"temperature": 0, "max_tokens": 700, "ignore_eos": True}
OTHERS = {"temperature": 0, "max_tokens": 60, "ignore_eos": True}
PROGRAM = Path(__file__).with_name("leaving_client.py")


FINISHED_LENGTH = series("flover_requests_finished_total", reason="length")


@contextmanager
def silent_client(server: LiveServer, *requests: tuple[list[int], dict[str, object], bool]) -> Iterator[None]:
    """It takes the first answer of each stream and then nothing; its sockets stay open."""
    command = [sys.executable, PROGRAM, server.grpc_url, "streams", *map(json.dumps, requests)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline().strip() for _ in range(1 + len(requests))]
            assert lines[0] == "sent" and all(lines)
            yield
        finally:
            process.kill()


def open_unread(server: LiveServer, prompt: list[int]) -> socket.socket:
    """A /generate_stream whose answers nobody reads, with a receive buffer that a few of them fill."""
    body = {"input_ids": prompt, "stream": True} | LONG
    return open_http(server.http_port, "generate_stream", body, receive_buffer=4096)


def test_its_request_ends_and_other_streams_go_on(server: LiveServer) -> None:
    """Rows and blocks are free when the engine is through, whether or not anybody has read."""
    before = wait_settled(server)
    alone = ids_of(ask(server.grpc_url, [9, 10], OTHERS))
    with silent_client(server, *(([7, number], LONG, True) for number in range(2))):
        streams = [Call(server.grpc_url, arrays_of([9, 10], OTHERS, stream=True)) for _ in range(2)]
        assert [ids_of(call.rest()) for call in streams] == [alone, alone]
        after = wait_settled(server, num_ended(before) + 1 + 2 + 2)
        assert after[FINISHED_LENGTH] == before[FINISHED_LENGTH] + 5


@pytest.mark.slow
def test_what_it_did_not_read_over_http_it_can_read_later(server: LiveServer) -> None:
    wait_idle(server)
    alone = ids_of(ask(server.grpc_url, [7], LONG))
    with open_unread(server, [7]) as connection:
        assert ids_of(ask(server.grpc_url, [9, 10], OTHERS))
        wait_idle(server)
        text = b""
        while not text.endswith(b"0\r\n\r\n"):  # the last chunk
            text += connection.recv(1 << 16)
    events = [json.loads(line.removeprefix(b"data: ")) for line in text.splitlines() if line.startswith(b"data: ")]
    ids = [event["output_ids"] for event in events]
    assert [one for ids_ in ids for one in (ids_ if isinstance(ids_, list) else [ids_])] == alone


def test_its_deadline_ends_it(server: LiveServer) -> None:
    """Sixty thousand tokens take longer than it gives them."""
    before = wait_settled(server)
    request = ([7], {"max_tokens": 1900, "n": 32, "ignore_eos": True, "deadline_ms": 1500}, True)
    with silent_client(server, request):
        after = wait_settled(server, num_ended(before) + 1)
    finished = series("flover_requests_finished_total", reason="deadline")
    assert after[finished] == before[finished] + 1


@pytest.mark.slow
def test_for_a_minute_nobody_else_notices(server: LiveServer) -> None:
    """Silent clients come again and again, over gRPC and HTTP; everybody else gets every token."""
    wait_idle(server)
    alone = ids_of(ask(server.grpc_url, [9, 10], OTHERS))
    until = time.monotonic() + 60
    rounds = 0
    while time.monotonic() < until:
        rounds += 1
        silent = silent_client(server, *(([7, number], LONG, True) for number in range(8)))
        with silent, open_unread(server, [8]):
            for _ in range(3):
                calls = [Call(server.grpc_url, arrays_of([9, 10], OTHERS, stream=n > 0)) for n in range(3)]
                assert [ids_of(call.rest()) for call in calls] == [alone] * 3
    assert rounds
    wait_idle(server)
    wait_for(lambda: ids_of(ask(server.grpc_url, [9, 10], OTHERS)) == alone)
