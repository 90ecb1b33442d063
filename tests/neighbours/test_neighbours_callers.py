"""An ensemble and a BLS model that call ours: whole answers, streams, errors, cancellation, many at once."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

import pytest
from calls import GREEDY, PROMPT, ask, call, text
from live_metrics import Scrape, num_ended, series, value, wait_settled
from live_server import LiveServer
from triton_client import post

TOO_MANY = {"max_tokens": 0}
REFUSAL = "max_tokens: got 0 as sampling_parameters; allowed: 1 .. "


def grown(before: Scrape, after: Scrape, name: str, **labels: str) -> float:
    return after[series(name, **labels)] - before[series(name, **labels)]


@pytest.fixture(scope="module")
def continuation(server: LiveServer) -> str:
    """What the model itself adds to the prompt."""
    return text(ask(server, "flover")).removeprefix(PROMPT)


def test_an_ensemble_answers_as_the_model_does(server: LiveServer, continuation: str) -> None:
    (answer,) = ask(server, "storyteller", "  Once \n upon a   time ")
    assert text([answer], "answer") == (PROMPT + continuation).upper()
    assert len(answer.outputs["output_ids"]) == GREEDY["max_tokens"]


def test_an_ensemble_streams(server: LiveServer, continuation: str) -> None:
    answers = ask(server, "storyteller", stream=True)
    assert text(answers, "answer") == continuation.upper()
    assert len(answers) > 1
    assert [answer.final for answer in answers] == [False] * (len(answers) - 1) + [True]


def test_a_bls_model_answers_as_the_model_does(server: LiveServer, continuation: str) -> None:
    (answer,) = ask(server, "caller")
    assert text([answer]) == PROMPT + continuation


def test_a_bls_model_streams(server: LiveServer, continuation: str) -> None:
    answers = ask(server, "caller", stream=True)
    assert text(answers) == continuation
    assert len(answers) > 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["storyteller", "caller"])
def test_errors_come_through_with_their_text(server: LiveServer, model: str, stream: bool) -> None:
    (answer,) = ask(server, model, parameters=TOO_MANY, stream=stream)
    assert REFUSAL in answer.error
    assert answer.final


@pytest.mark.parametrize(("model", "field"), [("storyteller", "question"), ("caller", "text_input")])
def test_errors_come_through_with_their_code(server: LiveServer, model: str, field: str) -> None:
    """Triton's HTTP status is made from the code: 400 is INVALID_ARG's, others are 500 and 503."""
    body = {field: PROMPT, "sampling_parameters": json.dumps(TOO_MANY)}
    status, answer = post(f"{server.http_url}/v2/models/{model}/generate", body)
    assert status == 400
    assert REFUSAL in answer


def test_request_parameters_pass_through_an_ensemble(server: LiveServer) -> None:
    (answer,) = ask(server, "storyteller", parameters={"temperature": 0}, parameters_of_request={"max_tokens": 3})
    assert len(answer.outputs["output_ids"]) == 3


def test_server_sent_events_of_an_ensemble(server: LiveServer, continuation: str) -> None:
    body = {"question": PROMPT, "stream": True, "sampling_parameters": json.dumps(GREEDY)}
    url = f"{server.http_url}/v2/models/storyteller/generate_stream"
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        lines = [line for line in answer.read().decode().splitlines() if line.startswith("data: ")]
    assert "".join(json.loads(line[6:])["answer"] for line in lines) == continuation.upper()


@pytest.mark.parametrize("model", ["storyteller", "caller"])
def test_a_timeout_passes_through(server: LiveServer, model: str) -> None:
    endless = {"temperature": 0, "max_tokens": 2000, "ignore_eos": True}
    answers = ask(server, model, parameters=endless, stream=True, timeout=300_000)
    ours = text(answers, "answer" if model == "storyteller" else "text_output")
    whole = text(ask(server, "flover", parameters=endless | {"max_tokens": 1000}, stream=True))
    assert 0 < len(ours) < len(whole)
    assert whole.lower().startswith(ours.lower())


@pytest.mark.slow
@pytest.mark.parametrize("model", ["storyteller", "caller"])
def test_a_cancel_does_not_reach_us_through_a_caller_of_this_release(server: LiveServer, model: str) -> None:
    """24.10 tells neither a running step of an ensemble nor a BLS call: max_tokens and deadline_ms bound them."""
    before = wait_settled(server)
    running = call(server, model, parameters={"max_tokens": 300, "ignore_eos": True}, stream=True)
    running.next()
    running.cancel()
    after = wait_settled(server, num_ended(before) + 1)
    assert grown(before, after, "flover_requests_finished_total", reason="length") == 1
    assert grown(before, after, "flover_requests_finished_total", reason="cancelled") == 0


@pytest.mark.slow
@pytest.mark.parametrize("model", ["storyteller", "caller"])
def test_a_deadline_bounds_what_a_caller_left_running(server: LiveServer, model: str) -> None:
    before = wait_settled(server)
    running = call(server, model, parameters={"max_tokens": 2000, "ignore_eos": True, "deadline_ms": 300}, stream=True)
    running.next()
    running.cancel()
    after = wait_settled(server, num_ended(before) + 1)
    assert grown(before, after, "flover_requests_finished_total", reason="deadline") == 1


def test_many_callers_at_once(server: LiveServer, continuation: str) -> None:
    """More than there are rows: some of them wait, and all are answered alike."""
    models: list[Any] = ["storyteller", "flover", "caller"] * 3
    running = [(model, call(server, model, stream=True)) for model in models]
    for model, one in running:
        answers = [answer for answer in one.rest() if answer.outputs or answer.error]
        output = "answer" if model == "storyteller" else "text_output"
        assert text(answers, output).lower() == continuation.lower()
    assert value(server, "flover_requests_rejected_total", reason="queue_full") == 0
