"""The bounded queue and deadlines, on a server of two rows and a queue of four; and what its log says.

An error's code is checked in tests/front: a stream tells its text alone, 24.10's /generate says 400 whatever the code
is, and the header `triton_grpc_error`, which would make a stream tell the code, crashes 24.10 now and then (a race in
its gRPC endpoint, with any model that answers from a thread).
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from live_metrics import finished, value, wait_idle, wait_running, wait_settled
from live_server import LiveServer, wait_for
from triton_client import Call, arrays_of, ask, ids_of, post

ENDLESS = {"temperature": 0, "max_tokens": 1900, "ignore_eos": True}
SHORT = {"temperature": 0, "max_tokens": 3, "ignore_eos": True}
LONG_PROMPT = [5, 6, 7, 8] * 475


@pytest.fixture
def full_rows(small_server: LiveServer) -> Iterator[list[Call]]:
    """Both rows decode until the test ends."""
    wait_settled(small_server)
    calls = [Call(small_server.grpc_url, arrays_of([5], ENDLESS, stream=True)) for _ in range(2)]
    for call in calls:
        call.next()
    wait_running(small_server, 2)
    yield calls
    for call in calls:
        call.cancel()
    wait_idle(small_server)


def test_a_full_queue_refuses_with_its_depth(small_server: LiveServer, full_rows: list[Call]) -> None:
    refused = value(small_server, "flover_requests_rejected_total", reason="queue_full")
    waiting = [Call(small_server.grpc_url, arrays_of([6], SHORT)) for _ in range(4)]
    wait_running(small_server, 2, waiting=4)
    assert value(small_server, "nv_trt_llm_request_metrics", request_type="waiting") == 4
    assert value(small_server, "nv_trt_llm_request_metrics", request_type="active") == 2
    (answer,) = ask(small_server.grpc_url, [6], SHORT)
    assert "the queue is full: 4 requests" in answer.error
    status, text = post(f"{small_server.http_url}/v2/models/flover/generate", {"text_input": "And"})
    assert status == 400  # NOTE: 24.10's /generate says 400 whatever an error's code is.
    assert "the queue is full: 4 requests" in json.loads(text)["error"]
    wait_for(lambda: value(small_server, "flover_requests_rejected_total", reason="queue_full") == refused + 2)
    full_rows[0].cancel()
    runs = [ids_of(call.rest()) for call in waiting]
    assert len(runs[0]) == 3
    assert runs[1:] == runs[:-1]
    assert len(ids_of(ask(small_server.grpc_url, [6], SHORT))) == 3


def test_a_queue_full_of_tokens_refuses_with_its_depth(small_server: LiveServer, full_rows: list[Call]) -> None:
    waiting = [Call(small_server.grpc_url, arrays_of(LONG_PROMPT, SHORT)) for _ in range(2)]
    wait_running(small_server, 2, waiting=2)
    (answer,) = ask(small_server.grpc_url, LONG_PROMPT, SHORT)
    assert "the queue is full: 2 requests with 3800 prompt tokens wait, this one has 1900" in answer.error
    assert "4000 tokens" in answer.error
    short = Call(small_server.grpc_url, arrays_of([6], SHORT))
    wait_running(small_server, 2, waiting=3)
    for call in [*waiting, short]:
        call.cancel()
    wait_running(small_server, 2)


def test_a_deadline_that_passes_in_the_queue(small_server: LiveServer, full_rows: list[Call]) -> None:
    before = finished(small_server, "deadline")
    (answer,) = ask(small_server.grpc_url, [6], SHORT | {"deadline_ms": 200})
    assert "deadline" in answer.error
    wait_for(lambda: finished(small_server, "deadline") == before + 1)
    assert ids_of([full_rows[0].next()])


@pytest.mark.parametrize("stream", [False, True])
def test_a_deadline_that_passes_in_prefill(small_server: LiveServer, stream: bool) -> None:
    (answer,) = ask(small_server.grpc_url, LONG_PROMPT, SHORT | {"deadline_ms": 100}, stream=stream)
    assert "deadline" in answer.error
    wait_idle(small_server)


@pytest.mark.parametrize("stream", [False, True])
def test_a_deadline_that_passes_in_decode_keeps_what_there_is(small_server: LiveServer, stream: bool) -> None:
    whole = ids_of(ask(small_server.grpc_url, [5], ENDLESS | {"max_tokens": 10}))
    answers = ask(small_server.grpc_url, [5], ENDLESS | {"deadline_ms": 700}, stream=stream, return_finish_reason=True)
    assert answers[-1].outputs["finish_reason"].tolist() == [b"deadline"]
    ids = ids_of(answers)
    assert 0 < len(ids) < 1900
    assert ids[:10] == whole[: len(ids)]
    wait_idle(small_server)


def test_a_deadline_that_does_not_pass_changes_nothing(small_server: LiveServer) -> None:
    runs = [ids_of(ask(small_server.grpc_url, [5], SHORT | more)) for more in ({}, {"deadline_ms": 86_400_000})]
    assert runs[0] == runs[1]


def test_what_can_never_fit_is_refused_at_once(small_server: LiveServer, full_rows: list[Call]) -> None:
    (answer,) = ask(small_server.grpc_url, [5], {"n": 3})
    assert "n: got 3" in answer.error
    assert "1 .. 2" in answer.error


def test_triton_gives_requests_to_both_fronts_and_drawn_seeds_are_logged(small_server: LiveServer) -> None:
    def lines() -> list[str]:
        return [line for line in small_server.log().splitlines() if "reason=length" in line and " seed=" in line]

    before = len(lines())
    for _ in range(8):
        ask(small_server.grpc_url, [5], {"max_tokens": 1, "ignore_eos": True})
    wait_for(lambda: len(lines()) == before + 8)
    fronts = {front for front in ("flover_0_0", "flover_0_1") for line in lines()[before:] if front in line}
    assert sorted(fronts) == ["flover_0_0", "flover_0_1"]
