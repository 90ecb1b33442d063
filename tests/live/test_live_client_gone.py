"""A client whose process is killed: its connection ends without a word, and everything it asked for with it."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from live_metrics import finished, series, value, wait_idle, wait_running, wait_settled
from live_server import LiveServer, wait_for
from triton_client import Call, arrays_of, ask, ids_of, open_http

ENDLESS = {"temperature": 0, "max_tokens": 1900, "ignore_eos": True}
BOUNDED = {"temperature": 0, "max_tokens": 1500, "ignore_eos": True}
LONG_PROMPT = [5, 6, 7, 8] * 475
PROGRAM = Path(__file__).with_name("leaving_client.py")

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def client(small_server: LiveServer) -> Iterator[Start]:
    """Starts clients of the small server; those that a test leaves alive are killed."""
    clients: list[subprocess.Popen[str]] = []

    def start(mode: str, *requests: tuple[list[int], dict[str, object], bool]) -> subprocess.Popen[str]:
        command = [sys.executable, PROGRAM, small_server.grpc_url, mode, *map(json.dumps, requests)]
        clients.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert line_of(clients[-1]) == "sent"
        return clients[-1]

    yield start
    for one in clients:
        kill(one)


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def wait_cancelled(server: LiveServer, before: float, count: int) -> None:
    wait_idle(server)
    wait_for(lambda: finished(server, "cancelled") == before + count)


@pytest.mark.parametrize("mode", ["streams", "half", pytest.param("one", marks=pytest.mark.slow)])
def test_killed_amid_tokens_with_others_of_its_requests_waiting(
    small_server: LiveServer, client: Start, mode: str
) -> None:
    """Two have rows, two wait; some stream, some do not. Another client's request goes on."""
    scrape = wait_settled(small_server)
    before = scrape[series("flover_requests_finished_total", reason="cancelled")]
    leaving = client(mode, *(([7, index], ENDLESS, index % 2 == 0) for index in range(4)))
    wait_running(small_server, 2, waiting=2)
    assert line_of(leaving) == "answered"
    other = Call(small_server.grpc_url, arrays_of([9, 10], {"temperature": 0, "max_tokens": 40, "ignore_eos": True}))
    wait_running(small_server, 2, waiting=3)
    kill(leaving)
    assert len(ids_of(other.rest())) == 40
    wait_cancelled(small_server, before, 4)
    assert value(small_server, "flover_kv_blocks_used") == 0


@pytest.mark.parametrize("stream", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_killed_in_prefill(small_server: LiveServer, client: Start, stream: bool) -> None:
    scrape = wait_settled(small_server)
    generated = "vllm:generation_tokens_total"
    leaving = client("streams", (LONG_PROMPT, {"max_tokens": 20, "ignore_eos": True}, stream))
    wait_running(small_server, 1)
    kill(leaving)
    wait_cancelled(small_server, scrape[series("flover_requests_finished_total", reason="cancelled")], 1)
    assert value(small_server, generated) == scrape[series(generated)]


@pytest.mark.parametrize("how", ["reset", pytest.param("half-closed", marks=pytest.mark.slow)])
def test_triton_24_10_reports_who_left_a_generate_stream_in_the_queue_when_it_has_a_row(
    small_server: LiveServer, how: str
) -> None:
    """It takes a client that has closed its sending side for one that left, too; not so on /generate."""
    before = wait_settled(small_server)
    rows = [Call(small_server.grpc_url, arrays_of([9, number], BOUNDED, stream=True)) for number in range(2)]
    wait_running(small_server, 2)
    body = {"input_ids": [5], "stream": True, "max_tokens": 1900, "ignore_eos": True}
    with open_http(small_server.http_port, "generate_stream", body) as connection:
        wait_running(small_server, 2, waiting=1)
        if how == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4096):
                pass
    assert [len(ids_of(call.rest())) for call in rows] == [BOUNDED["max_tokens"]] * 2
    wait_cancelled(small_server, before[series("flover_requests_finished_total", reason="cancelled")], 1)


def test_one_that_has_said_all_it_had_to_say_still_gets_its_answers(small_server: LiveServer) -> None:
    """A half-closed stream is a client that listens."""
    alone = ids_of(ask(small_server.grpc_url, [7], ENDLESS | {"max_tokens": 200}))
    before = finished(small_server, "cancelled")
    call = Call(small_server.grpc_url, arrays_of([7], ENDLESS | {"max_tokens": 200}, stream=True))
    call.half_close()
    assert ids_of(call.rest()) == alone
    wait_idle(small_server)
    assert finished(small_server, "cancelled") == before
