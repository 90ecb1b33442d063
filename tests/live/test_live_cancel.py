"""A client that leaves, in each phase of its request: seen, counted, its blocks free, and others go on.

On a server of two rows whose prompts take 4 tokens an iteration, so that each phase can be met.
"""

from __future__ import annotations

import time

import pytest
from live_metrics import finished, num_ended, series, value, wait_idle, wait_running, wait_settled
from live_server import LiveServer, wait_for
from triton_client import Call, arrays_of, ask, ids_of, open_http

ENDLESS = {"temperature": 0, "max_tokens": 1900, "ignore_eos": True}
BOUNDED = {"temperature": 0, "max_tokens": 150, "ignore_eos": True}
LONG_PROMPT = [5, 6, 7, 8] * 475
SHORT = {"temperature": 0, "max_tokens": 20, "ignore_eos": True}


def wait_cancelled(server: LiveServer, before: float, count: int = 1) -> None:
    wait_for(lambda: finished(server, "cancelled") == before + count)
    wait_idle(server)
    assert finished(server, "cancelled") == before + count


@pytest.mark.parametrize("stream", [False, True])
def test_while_it_waits(small_server: LiveServer, stream: bool) -> None:
    wait_idle(small_server)
    before = finished(small_server, "cancelled")
    first = [Call(small_server.grpc_url, arrays_of([5], ENDLESS, stream=True)) for _ in range(2)]
    answers = [call.next() for call in first]
    waiting = Call(small_server.grpc_url, arrays_of([6], ENDLESS, stream=stream))
    wait_running(small_server, 2, waiting=1)
    waiting.cancel()
    wait_running(small_server, 2, waiting=0)
    assert finished(small_server, "cancelled") == before + 1
    assert all(ids_of([answer]) for answer in answers)
    for call in first:
        assert ids_of([call.next()])
        call.cancel()
    wait_cancelled(small_server, before, 3)


@pytest.mark.parametrize("stream", [False, True])
def test_in_prefill(small_server: LiveServer, stream: bool) -> None:
    scrape = wait_settled(small_server)
    generated = "vllm:generation_tokens_total"
    call = Call(small_server.grpc_url, arrays_of(LONG_PROMPT, SHORT, stream=stream))
    wait_running(small_server, 1)
    call.cancel()
    wait_cancelled(small_server, scrape[series("flover_requests_finished_total", reason="cancelled")])
    assert value(small_server, generated) == scrape[series(generated)]


@pytest.mark.parametrize("stream", [False, True])
def test_in_decode(small_server: LiveServer, stream: bool) -> None:
    wait_settled(small_server)
    before, tokens = finished(small_server, "cancelled"), value(small_server, "vllm:generation_tokens_total")
    alone = ids_of(ask(small_server.grpc_url, [9, 10], BOUNDED))
    call = Call(small_server.grpc_url, arrays_of([5], ENDLESS, stream=stream))
    wait_running(small_server, 1)
    other = Call(small_server.grpc_url, arrays_of([9, 10], BOUNDED, stream=True))
    answers = [other.next()]
    call.cancel()
    assert ids_of(answers + other.rest()) == alone
    wait_cancelled(small_server, before)
    delivered = value(small_server, "vllm:generation_tokens_total") - tokens - 2 * BOUNDED["max_tokens"]
    assert 0 < delivered < ENDLESS["max_tokens"]


def test_all_of_several_sequences(small_server: LiveServer) -> None:
    wait_idle(small_server)
    before = finished(small_server, "cancelled")
    call = Call(small_server.grpc_url, arrays_of([5], ENDLESS | {"n": 2, "temperature": 1}, stream=True))
    call.next()
    wait_for(lambda: value(small_server, "flover_kv_blocks_used") > 0)
    call.cancel()
    wait_cancelled(small_server, before)


def test_a_client_that_leaves_a_generate_stream(small_server: LiveServer) -> None:
    wait_idle(small_server)
    before = finished(small_server, "cancelled")
    body = {"text_input": "And", "stream": True, "max_tokens": 1900, "ignore_eos": True}
    with open_http(small_server.http_port, "generate_stream", body) as connection:
        assert connection.recv(4096)
    wait_cancelled(small_server, before)


def leave_in_prefill(server: LiveServer, path: str) -> dict[str, float]:
    """What a request of 120 tokens, whose HTTP client leaves in its prefill, adds to the counters."""
    names = {
        "cancelled": series("flover_requests_finished_total", reason="cancelled"),
        "length": series("flover_requests_finished_total", reason="length"),
        "tokens": series("vllm:generation_tokens_total"),
    }
    before = wait_settled(server)
    body = {"input_ids": LONG_PROMPT, "stream": path == "generate_stream", "max_tokens": 120, "ignore_eos": True}
    with open_http(server.http_port, path, body):
        wait_running(server, 1)
    after = wait_settled(server, num_ended(before) + 1)
    return {key: after[name] - before[name] for key, name in names.items()}


def test_triton_24_10_does_not_report_who_leaves_a_generate(small_server: LiveServer) -> None:
    """The request runs to its end, bounded by max_tokens and deadline_ms."""
    assert leave_in_prefill(small_server, "generate") == {"cancelled": 0, "length": 1, "tokens": 120}


def test_triton_24_10_reports_who_left_a_generate_stream_when_it_begins_to_send(small_server: LiveServer) -> None:
    grown = leave_in_prefill(small_server, "generate_stream")
    assert (grown["cancelled"], grown["length"]) == (1, 0)
    assert 0 < grown["tokens"] < 120


def test_a_cancel_is_seen_soon(small_server: LiveServer) -> None:
    """Within 250 ms on an idle host; the bound here is generous."""
    wait_idle(small_server)
    call = Call(small_server.grpc_url, arrays_of([5], ENDLESS, stream=True))
    call.next()
    tokens = value(small_server, "vllm:generation_tokens_total")
    began = time.monotonic()
    call.cancel()
    wait_idle(small_server)
    assert time.monotonic() - began < 5
    assert value(small_server, "vllm:generation_tokens_total") - tokens < ENDLESS["max_tokens"]
