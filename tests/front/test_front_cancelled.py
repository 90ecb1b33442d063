"""A client that cancels: one FINAL with CANCELLED at whatever moment it comes, and the engine is told what it has."""

from __future__ import annotations

import threading

import pytest
from fake_triton import Logger, TritonError
from front_host import FrontHost, make_request, started, wait_until

from flover_backend.front.tokenizer import Tokenizer
from flover_backend.request import FinishReason, Request


@pytest.mark.parametrize("stream", [False, True])
def test_cancelled_by_the_client(host: FrontHost, stream: bool) -> None:
    sender, request = started(host, stream)
    sender.cancelled = True
    assert sender.wait()[-1].error.code == TritonError.CANCELLED  # type: ignore[union-attr]
    wait_until(lambda: host.client.cancelled == [request.key])
    host.tokens(request, [40])
    host.service.on_ended(request.key, "CANCELLED", "cancelled", "cancelled")
    host.close()
    assert sender.finals == 1


def test_cancelled_in_decode(host: FrontHost) -> None:
    sender, request = started(host)
    host.tokens(request, [40])
    sender.wait_for(1)
    sender.cancelled = True
    responses = sender.wait()
    assert [response.error is None for response in responses] == [True, False]


def test_cancelled_while_it_waits_for_a_tokenizer(host: FrontHost, tokenizer: Tokenizer) -> None:
    gate = threading.Event()
    slow_encode = tokenizer.encode
    host.service._tokenizer = type(  # an encode that waits
        "SlowTokenizer", (), {"encode": lambda self, text: (gate.wait(10), slow_encode(text))[1], "token_bytes": None}
    )()
    sender = host.ask("Once")
    sender.cancelled = True
    assert sender.error().code == TritonError.CANCELLED
    gate.set()
    host.close()
    assert not host.client.submitted


def test_a_cancel_that_overtakes_the_submission_is_sent_again(host: FrontHost) -> None:
    request_object = make_request([1])
    submit = host.client.submit

    def slow_submit(request: Request) -> None:
        request_object.sender.cancelled = True
        request_object.sender.wait()
        wait_until(lambda: host.client.cancelled == [request.key])
        submit(request)

    host.client.submit = slow_submit  # type: ignore[method-assign]
    host.send(request_object)
    assert host.client.cancelled == [host.client.submitted[0].key] * 2


def test_cancellation_is_not_asked_after_final(host: FrontHost) -> None:
    """fake_triton asserts it; here many requests end while the sweep is at them."""
    senders = []
    for _ in range(100):
        sender, request = started(host)
        host.tokens(request, [40], FinishReason.LENGTH)
        senders.append(sender)
    for sender in senders:
        sender.wait()
    host.close()
    assert not [line for level, line in Logger.lines if level == "error"]
