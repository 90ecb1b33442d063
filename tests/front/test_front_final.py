"""Exactly one FINAL on every path, on the last content response, and nothing after it (fake_triton asserts that)."""

from __future__ import annotations

import threading

import pytest
from fake_triton import InferenceRequest, Logger, ResponseSender, TritonError
from front_host import FrontHost, make_request, started, wait_until
from small_info import INFO

from flover_backend.channel import Status
from flover_backend.front import service
from flover_backend.request import FinishReason

LENGTH = FinishReason.LENGTH


def held(host: FrontHost, request: InferenceRequest) -> tuple[ResponseSender, threading.Event]:
    """A request whose sends wait until the event is set."""
    request.sender.hold = threading.Event()
    return host.send(request), request.sender.hold


def status(accepting: bool = True, draining: bool = False, waiting: int = 0) -> Status:
    return Status(num_waiting_requests=waiting, num_waiting_tokens=10 * waiting, accepting=accepting, draining=draining)


@pytest.mark.parametrize("stream", [False, True])
def test_finished(host: FrontHost, stream: bool) -> None:
    sender, request = started(host, stream)
    host.tokens(request, [40], LENGTH)
    assert len(sender.wait()) == 1


def test_the_first_token_goes_out_at_once(host: FrontHost) -> None:
    sender, request = started(host)
    host.tokens(request, [40])
    sender.wait_for(1)


def test_a_request_that_does_not_stream_gets_one_response(host: FrontHost) -> None:
    sender, request = started(host, stream=False)
    for token_id in (40, 41, 42):
        host.tokens(request, [token_id])
    host.tokens(request, [43], LENGTH)
    (response,) = sender.wait()
    assert response.outputs["output_ids"].tolist() == [40, 41, 42, 43]


def test_an_end_without_a_token_carries_final(host: FrontHost) -> None:
    sender, request = started(host)
    host.tokens(request, [40])
    sender.wait_for(1)
    host.tokens(request, [], FinishReason.DEADLINE)
    assert [response.outputs["output_ids"].tolist() for response in sender.wait()] == [[40], []]


def test_tokens_that_wait_for_a_send_go_out_together(host: FrontHost) -> None:
    sender, hold = held(host, make_request([1], stream=True))
    request = host.client.wait_submitted()
    host.tokens(request, [40])
    wait_until(lambda: not host.service._live.all()[0]._news)  # the first is being sent
    for token_id in (41, 42, 43):
        host.tokens(request, [token_id])
    host.tokens(request, [44], LENGTH)
    hold.set()
    ids = [response.outputs["output_ids"].tolist() for response in sender.wait()]
    assert ids == [[40], [41, 42, 43, 44]]
    host.close()
    assert sum(saved for saved, _ in host.client.stats) == 3


@pytest.mark.parametrize(
    ("code", "reason"),
    [("UNAVAILABLE", "deadline"), ("UNAVAILABLE", "refused"), ("INVALID_ARG", "refused"), ("UNAVAILABLE", "shutdown")],
)
@pytest.mark.parametrize("stream", [False, True])
def test_ended_by_the_engine(host: FrontHost, code: str, reason: str, stream: bool) -> None:
    sender, request = started(host, stream)
    host.service.on_ended(request.key, code, "why it ended", reason)
    error = sender.error()
    assert error.code == getattr(TritonError, code)
    assert str(error) == f"why it ended [{code}]"


def test_what_was_counted_as_accepted_stays_so_although_the_next_engine_refuses_it(host: FrontHost) -> None:
    refused = host.ask([5])
    request = host.client.wait_submitted()
    host.tokens(request, [40])
    host.service.on_lost("it crashed", "3 of 3 restarts are left", set())
    host.service.on_restarted()
    host.service.on_ended(request.key, "UNAVAILABLE", "why not", "refused")
    refused.error()
    host.close()
    assert host.metrics.counted == {
        "flover_requests_accepted_total": 1,
        'flover_requests_ended_total{outcome="failed"}': 1,
    }


def test_tokens_before_an_error_go_out_first(host: FrontHost) -> None:
    sender, hold = held(host, make_request([1], stream=True))
    request = host.client.wait_submitted()
    host.tokens(request, [40])
    host.tokens(request, [41])
    host.service.on_ended(request.key, "UNAVAILABLE", "shut down", "shutdown")
    hold.set()
    responses = sender.wait()
    assert [i for r in responses[:-1] for i in r.outputs["output_ids"].tolist()] == [40, 41]
    assert responses[-1].error is not None


def test_a_finish_wins_over_an_error_that_comes_later(host: FrontHost) -> None:
    sender, hold = held(host, make_request([1], stream=True))
    request = host.client.wait_submitted()
    host.tokens(request, [40])
    host.tokens(request, [41], LENGTH)
    host.service.on_ended(request.key, "CANCELLED", "too late", "cancelled")
    hold.set()
    assert all(response.error is None for response in sender.wait())


def test_the_engine_fails(host: FrontHost) -> None:
    requests = [started(host, stream)[0] for stream in (False, True)]
    host.client.failure = "it crashed"
    host.service.on_failed("it crashed")
    for sender in requests:
        error = sender.error()
        assert error.code == TritonError.INTERNAL
        assert "it crashed" in str(error)
    later = host.ask([1]).error()
    assert later.code == TritonError.INTERNAL
    assert "reload the model" in str(later)


def test_the_engine_goes_while_a_request_is_submitted(host: FrontHost) -> None:
    host.client.failure = "it is gone"
    assert host.ask("Once").error().code == TritonError.INTERNAL


def test_a_full_queue(host: FrontHost) -> None:
    host.service.on_status(status(accepting=False, waiting=4))
    error = host.ask([1]).error()
    assert error.code == TritonError.UNAVAILABLE
    assert "4 requests with 40 prompt tokens wait" in str(error)
    host.service.on_status(status())
    assert started(host)[1].prompt_ids == [1]


def test_requests_that_wait_for_a_tokenizer_count_as_waiting(host: FrontHost) -> None:
    gate = threading.Event()
    host.service._tokenizing.submit(gate.wait, 10)
    host.service._tokenizing.submit(gate.wait, 10)
    waiting = [host.ask("Once") for _ in range(INFO.max_queued_requests)]
    error = host.ask("Once").error()
    assert error.code == TritonError.UNAVAILABLE
    assert "the queue is full: 4 requests" in str(error)
    gate.set()
    host.client.wait_submitted(len(waiting))


def test_the_queue_is_looked_at_before_the_request_is_read(host: FrontHost) -> None:
    host.service.on_status(status(accepting=False, waiting=4))
    assert host.ask(b"\xff" * 10_000).error().code == TritonError.UNAVAILABLE


def test_draining(host: FrontHost) -> None:
    sender, request = started(host)
    host.service.on_drain()
    host.service.on_status(status(draining=True))
    error = host.ask([1]).error()
    assert error.code == TritonError.UNAVAILABLE
    assert "draining" in str(error)
    host.tokens(request, [40], LENGTH)
    assert sender.wait()[-1].error is None
    host.close()
    assert sum(rejected.get("draining", 0) for _, rejected in host.client.stats) == 1


def test_finalize_with_live_requests(host: FrontHost) -> None:
    senders = [started(host, stream)[0] for stream in (False, True)]
    host.close()
    for sender in senders:
        assert sender.error().code == TritonError.UNAVAILABLE
    assert len(host.client.cancelled) == 2
    assert host.client.is_closed


def test_finalize_is_bounded_when_a_send_hangs(host: FrontHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "CLOSE_STREAMS_S", 0.1)
    monkeypatch.setattr(service, "CLOSE_THREADS_S", 0.1)
    sender, hold = held(host, make_request([1]))
    host.tokens(host.client.wait_submitted(), [40], LENGTH)
    host.close()
    assert host.client.is_closed
    assert any("did not end" in line for _, line in Logger.lines)
    hold.set()
    sender.wait()


def test_a_response_that_cannot_be_sent_ends_the_request_and_frees_its_row(host: FrontHost) -> None:
    request_object = make_request([1], stream=True)
    request_object.sender.fail_sends = 1
    sender = host.send(request_object)
    request = host.client.wait_submitted()
    host.tokens(request, [40])
    responses = sender.wait()
    assert responses[-1].error.code == TritonError.INTERNAL  # type: ignore[union-attr]
    wait_until(lambda: host.client.cancelled == [request.key])


def test_a_response_that_cannot_be_built_gives_internal(host: FrontHost) -> None:
    sender, request = started(host, n=2)
    host.tokens(request, [40], index=7)
    assert sender.wait()[-1].error.code == TritonError.INTERNAL  # type: ignore[union-attr]


def test_news_of_unknown_requests_is_ignored(host: FrontHost) -> None:
    host.service.on_tokens(12345, 0, [40], LENGTH, None)
    host.service.on_ended(12345, "INTERNAL", "x", "internal")
    _, request = started(host)
    assert request.prompt_ids == [1]


def test_many_requests_at_once_keep_their_order(host: FrontHost) -> None:
    pairs = [started(host) for _ in range(50)]
    for step in range(20):
        for _, request in pairs:
            host.tokens(request, [40 + step], LENGTH if step == 19 else FinishReason.NONE)
    for sender, _ in pairs:
        ids = [i for response in sender.wait() for i in response.outputs["output_ids"].tolist()]
        assert ids == list(range(40, 60))


def test_each_accepted_request_is_counted_once_and_once_with_its_outcome(host: FrontHost) -> None:
    finished, failed = (started(host, stream=True)[0] for _ in range(2))
    requests = host.client.submitted
    host.tokens(requests[0], [41], LENGTH)
    finished.wait()
    refused = host.ask([5])
    host.service.on_ended(host.client.wait_submitted(3).key, "UNAVAILABLE", "the queue is full", "refused")
    refused.error()
    waiting = host.ask([6])
    host.client.wait_submitted(4)
    host.tokens(requests[1], [42])
    wait_until(lambda: failed.responses)
    host.service.on_lost("it crashed", "restart 1 of 3", set())
    assert failed.wait()[-1].error is not None
    assert host.service.waiting() == [host.client.submitted[3].key]
    host.service.on_restarted()
    host.tokens(host.client.submitted[3], [7], LENGTH)
    waiting.wait()
    host.close()
    assert host.metrics.counted == {
        "flover_requests_accepted_total": 3,
        'flover_requests_ended_total{outcome="finished"}': 2,
        'flover_requests_ended_total{outcome="failed"}': 1,
    }


def test_a_request_that_was_sent_nothing_begins_again_as_if_it_had_never_run(host: FrontHost) -> None:
    """Its tokens so far, half of a stop string among them, are forgotten."""
    sender = host.ask("Once", {"stop": ["never"]})
    request = host.client.wait_submitted()
    host.tokens(request, [300, 301])
    host.service.on_lost("it crashed", "restart 1 of 3", set())
    assert host.service.waiting() == [request.key]
    later = host.ask([1]).error()
    assert later.code == TritonError.UNAVAILABLE
    assert "is being started again: it crashed; restart 1 of 3" in str(later)
    host.service.on_restarted()
    host.tokens(request, [40, 41], LENGTH)
    (response,) = sender.wait()
    assert response.outputs["output_ids"].tolist() == [40, 41]


def test_a_request_that_two_engines_failed_at_is_not_run_again(host: FrontHost) -> None:
    """The one beside it in the first failure is."""
    bad, good = (host.ask([number]) for number in (1, 2))
    keys = [host.client.wait_submitted(number).key for number in (1, 2)]
    for suspects, waiting in ((keys, keys), ([], keys), (keys[:1], keys[1:])):
        host.service.on_lost("it crashed", "restart 1 of 3", set(suspects))
        assert host.service.waiting() == waiting
        host.service.on_restarted()
    error = bad.error()
    assert error.code == TritonError.INTERNAL
    assert str(error).startswith("the engine has failed again at this request: it crashed")
    host.tokens(host.client.submitted[1], [40], LENGTH)
    assert len(good.wait()) == 1


def test_a_deadline_passes_without_an_engine(host: FrontHost) -> None:
    sender = host.ask([1], {"deadline_ms": 50})
    host.client.wait_submitted()
    host.service.on_lost("it crashed", "restart 1 of 3", set())
    error = sender.error()
    assert error.code == TritonError.UNAVAILABLE
    assert "deadline_ms" in str(error)
    assert host.service.waiting() == []
