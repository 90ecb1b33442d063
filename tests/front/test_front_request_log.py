"""One log line for every way in which a request ends; a storm of refusals is summed up; nothing of a prompt in any."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from fake_triton import InferenceRequest, Logger
from front_host import FrontHost, make_request

from flover_backend.channel import Status
from flover_backend.front import service
from flover_backend.front.logs import Log
from flover_backend.front.request_log import REFUSAL_LINES, Ending, RequestLog, clean_id
from flover_backend.request import FinishReason, Request

SECRET = "TELLNOBODY"


def sent(host: FrontHost, prompt: object = "Once", parameters: object = None, **arrays: Any) -> Request:
    """A request that the engine has."""
    before = len(host.client.submitted)
    host.ask(prompt, parameters, **arrays)
    return host.client.wait_submitted(before + 1)


def only(lines: list[dict[str, str]]) -> dict[str, str]:
    (line,) = lines
    return line


@pytest.mark.parametrize("finish", [FinishReason.STOP, FinishReason.LENGTH, FinishReason.DEADLINE])
@pytest.mark.parametrize("stream", [False, True])
def test_finished(host: FrontHost, finish: FinishReason, stream: bool) -> None:
    request = sent(host, [4, 5, 6], {"seed": 1}, stream=stream)
    host.service.on_started(request.key, 0.0625)
    host.tokens(request, [40])
    host.tokens(request, [41], finish)
    line = only(host.log_lines())
    assert float(line.pop("total_ms")) >= float(line.pop("first_token_ms")) >= 0
    assert line == {
        "id": "r1",
        "key": str(request.key),
        "reason": finish.name.lower(),
        "code": "OK",
        "prompt_tokens": "3",
        "output_tokens": "2",
        "n": "1",
        "stream": str(stream).lower(),
        "queue_ms": "62.5",
    }


def test_sequences_that_end_differently(host: FrontHost) -> None:
    request = sent(host, [4], {"n": 3})
    for index, finish in enumerate([FinishReason.LENGTH, FinishReason.STOP, FinishReason.LENGTH]):
        host.tokens(request, [40, 41], finish, index)
    line = only(host.log_lines())
    assert (line["reason"], line["n"], line["output_tokens"]) == ("length,stop", "3", "6")


def test_a_stop_string_that_the_front_finds(host: FrontHost, tokenizer: Any) -> None:
    request = sent(host, [4], {"stop": SECRET})
    host.tokens(request, tokenizer.encode(SECRET + " and more"))
    assert only(host.log_lines())["reason"] == "stop"
    assert not any(SECRET in line for _, line in Logger.lines)


def test_a_drawn_seed_is_told_and_a_given_one_is_not(host: FrontHost) -> None:
    drawn, given, greedy = sent(host), sent(host, "Once", {"seed": 7}), sent(host, "Once", {"temperature": 0})
    for request in (drawn, given, greedy):
        host.tokens(request, [40], FinishReason.LENGTH)
    lines = {int(line["key"]): line for line in host.log_lines()}
    assert lines[drawn.key]["seed"] == str(drawn.params.seed)
    assert "seed" not in lines[given.key] and "seed" not in lines[greedy.key]


def test_cancelled(host: FrontHost) -> None:
    sender = host.ask([4], stream=True)
    request = host.client.wait_submitted()
    host.tokens(request, [40])
    sender.wait_for(1)
    sender.cancelled = True
    sender.wait()
    line = only(host.log_lines())
    assert (line["reason"], line["code"], line["output_tokens"]) == ("cancelled", "CANCELLED", "1")


@pytest.mark.parametrize(
    ("code", "reason"),
    [("UNAVAILABLE", "deadline"), ("UNAVAILABLE", "shutdown"), ("INTERNAL", "internal"), ("UNAVAILABLE", "refused")],
)
def test_ended_by_the_engine(host: FrontHost, code: str, reason: str) -> None:
    request = sent(host, [4])
    host.service.on_ended(request.key, code, "why", reason)
    line = only(host.log_lines())
    assert (line["reason"], line["code"], line["prompt_tokens"]) == (reason, code, "1")
    assert "first_token_ms" not in line


def test_bad_input(host: FrontHost) -> None:
    host.ask(SECRET, {"temperature": -1}).error()
    line = only(host.log_lines())
    assert (line["id"], line["reason"], line["code"]) == ("r1", "invalid_arg", "INVALID_ARG")
    assert not any(SECRET in line for _, line in Logger.lines)


@pytest.mark.parametrize(("draining", "reason"), [(False, "queue_full"), (True, "draining")])
def test_no_room(host: FrontHost, draining: bool, reason: str) -> None:
    host.service.on_status(Status(4, 40, accepting=False, draining=draining))
    host.ask([1]).error()
    line = only(host.log_lines())
    assert (line["reason"], line["code"]) == (reason, "UNAVAILABLE")


def test_the_engine_fails(host: FrontHost) -> None:
    accepted = host.ask([1])
    host.client.wait_submitted()
    host.service.on_failed("it crashed")
    accepted.error()
    host.ask([1]).error()
    assert [(line["reason"], line["code"]) for line in host.log_lines()] == [("internal", "INTERNAL")] * 2


def test_unloaded_with_live_requests(host: FrontHost) -> None:
    host.ask([1])
    host.client.wait_submitted()
    line = only(host.log_lines())
    assert (line["reason"], line["code"]) == ("shutdown", "UNAVAILABLE")


def test_a_response_that_cannot_be_sent(host: FrontHost) -> None:
    request = make_request([1], stream=True)
    request.sender.fail_sends = 1
    sender = host.send(request)
    host.tokens(host.client.wait_submitted(), [40])
    sender.wait()
    line = only(host.log_lines())
    assert (line["reason"], line["code"]) == ("send_failed", "INTERNAL")


def test_a_storm_of_refusals_is_summed_up_and_accepted_requests_keep_their_lines(host: FrontHost) -> None:
    for _ in range(300):
        host.ask(b"\xff").error()
    requests = [sent(host, [4]) for _ in range(50)]
    for request in requests:
        host.tokens(request, [40], FinishReason.LENGTH)
    lines = host.log_lines()
    accepted = [int(line["key"]) for line in lines if line["code"] == "OK"]
    assert sorted(accepted) == [request.key for request in requests]  # senders end beside each other
    refused = [line for line in lines if line["code"] == "INVALID_ARG"]
    sums = host.log_lines("requests refused")
    assert len(refused) + sum(int(line["count"]) for line in sums) == 300
    assert {(line["reason"], line["code"]) for line in sums} == {("invalid_arg", "INVALID_ARG")}
    assert len(refused) + len(sums) < 300


def test_no_response_waits_for_the_log(host: FrontHost, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, waiting = threading.Event(), threading.Event()
    write = Logger.log_info

    def slow(line: str) -> None:
        waiting.set()
        assert gate.wait(30)
        write(line)

    monkeypatch.setattr(Logger, "log_info", slow)
    host.ask(b"\xff").error()
    assert waiting.wait(10), "the refusal has no line"
    for number in range(20):
        sender = host.ask([4], stream=True)
        request = host.client.wait_submitted(number + 1)
        host.tokens(request, [40])
        sender.wait_for(1)
        host.tokens(request, [41], FinishReason.LENGTH)
        sender.wait()
    assert not Logger.lines
    gate.set()
    assert [line["reason"] for line in host.log_lines()] == ["invalid_arg"] + 20 * ["length"]


def test_an_end_is_bounded_when_the_log_hangs(host: FrontHost, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, waiting = threading.Event(), threading.Event()

    def hanging(line: str) -> None:
        waiting.set()
        assert gate.wait(30)

    monkeypatch.setattr(service, "CLOSE_THREADS_S", 0.1)
    monkeypatch.setattr(Logger, "log_info", hanging)
    host.ask(b"\xff").error()
    assert waiting.wait(10)
    host.close()
    assert host.client.is_closed and not gate.is_set()
    gate.set()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def refusal(key: int, reason: str = "queue_full") -> Ending:
    return Ending(key, "", reason, "UNAVAILABLE", False, False, 1, 0, 0, 0.0, None, 0.001)


def test_refusals_have_lines_of_their_own_again_in_the_next_second() -> None:
    Logger.lines = []
    clock = Clock()
    requests = RequestLog(Log("f", "text", Logger), clock)
    for second in range(3):
        for key in range(100):
            requests.ended(refusal(key, "queue_full" if key % 2 else "draining"))
            requests.flush()
        clock.now = second + 1.0
        requests.flush()
        single = [line for _, line in Logger.lines if ": request key=" in line]
        sums = [line for _, line in Logger.lines if "requests refused" in line]
        assert len(single) == REFUSAL_LINES
        assert sums == [
            f"flover f: requests refused count={50 - REFUSAL_LINES // 2} seconds=1.0 reason={reason} code=UNAVAILABLE"
            for reason in ("draining", "queue_full")
        ]
        Logger.lines = []


def test_nothing_is_written_when_nothing_ends() -> None:
    Logger.lines = []
    requests = RequestLog(Log("f", "text", Logger))
    requests.flush(last=True)
    assert not Logger.lines


def test_the_id_of_a_client_is_cut_and_holds_no_control_characters(host: FrontHost) -> None:
    request: InferenceRequest = make_request([1])
    request.id = "a\nflover front_0: request key=1\x1b[2J\u2028\x85" + "x" * 10_000
    host.send(request)
    (line,) = (line for line in host_lines(host) if "flover front_0: request id" in line)
    assert line.isascii() and line.isprintable()
    assert len(line) < 500
    assert 'id="a?flover front_0: request key=1?[2J??x' in line


def host_lines(host: FrontHost) -> list[str]:
    host.log_lines()
    return [line for _, line in Logger.lines]


@pytest.mark.parametrize("given", ["", "a", "é" * 128, "\ud800"])
def test_an_id_survives_or_becomes_printable(given: str) -> None:
    assert clean_id(given) == given.replace("\ud800", "?")


def test_json_has_the_same_fields() -> None:
    Logger.lines = []
    requests = RequestLog(Log("f", "json", Logger))
    requests.ended(Ending(5, 'q"\n', "length", "OK", True, True, 2, 3, 8, 1.0, 1.25, 3.0, 2**64 - 1, 0.125))
    requests.flush()
    record = json.loads(Logger.lines[0][1])
    assert record.pop("time") > 0
    assert record == {
        "level": "info",
        "front": "f",
        "message": "request",
        "id": 'q"?',
        "key": 5,
        "reason": "length",
        "code": "OK",
        "prompt_tokens": 3,
        "output_tokens": 8,
        "n": 2,
        "stream": True,
        "queue_ms": 125.0,
        "first_token_ms": 250.0,
        "total_ms": 2000.0,
        "seed": "18446744073709551615",
    }
