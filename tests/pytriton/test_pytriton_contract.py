"""The contract of docs/pytriton.md, line by line, on a model that is bound in a PyTriton program."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from live_server import wait_for
from pytriton.client import DecoupledModelClient
from pytriton.client.exceptions import PyTritonClientInferenceServerError
from pytriton_host import Host, contents
from triton_client import Call, arrays_of, ask, ids_of, post, text_of

from flover_client import Client, InvalidArgument, Unavailable

PROMPT = "In the beginning"
LONG = {"max_tokens": 2000, "ignore_eos": True, "temperature": 0}


# inputs and outputs


def test_text_and_ids_are_one_prompt(host: Host) -> None:
    with Client(host.grpc_url) as client:
        whole = client.generate(PROMPT, max_tokens=8, temperature=0)
        ids = host.encode(PROMPT)
        assert whole.num_input_tokens == len(ids)
        assert client.generate(ids, max_tokens=8, temperature=0).token_ids == whole.token_ids


def test_parameters_as_tensors_json_and_request_parameters_are_one(host: Host) -> None:
    as_json = ask(host.grpc_url, PROMPT, {"max_tokens": 6, "seed": 9})
    as_tensors = ask(host.grpc_url, PROMPT, max_tokens=np.int32(6), seed=np.uint64(9))
    call = Call(host.grpc_url, arrays_of(PROMPT), parameters={"max_tokens": 6, "seed": 9})
    assert ids_of(contents(as_json)) == ids_of(contents(as_tensors)) == ids_of(contents(call.rest()))


def test_every_output(host: Host) -> None:
    wanted = ("finish_reason", "cumulative_logprob", "logprobs", "num_input_tokens", "num_output_tokens")
    more = {f"return_{name}": True for name in wanted}
    (answer,) = contents(ask(host.grpc_url, PROMPT, {"max_tokens": 3, "temperature": 0, "logprobs": 2}, **more))
    outputs = answer.outputs
    assert set(outputs) == {"text_output", "output_ids", *wanted}
    ids = outputs["output_ids"].tolist()
    logprobs = json.loads(outputs["logprobs"][0])
    assert [next(iter(entry)) for entry in logprobs] == [str(token) for token in ids]
    total = sum(entry[str(token)]["logprob"] for token, entry in zip(ids, logprobs, strict=True))
    assert outputs["cumulative_logprob"].tolist() == pytest.approx([total], abs=1e-3)
    assert outputs["text_output"][0].startswith(PROMPT.encode())
    assert (outputs["finish_reason"].tolist(), outputs["num_output_tokens"].tolist()) == ([b"length"], [3])


@pytest.mark.parametrize("stream", [False, True])
def test_n_sequences(host: Host, stream: bool) -> None:
    parameters = {"max_tokens": 30, "n": 2, "seed": 4, "ignore_eos": True}
    more = {"stream": stream, "return_num_output_tokens": True, "exclude_input_in_output": True}
    answers = contents(ask(host.grpc_url, PROMPT, parameters, **more))
    counts = np.sum([answer.outputs["num_output_tokens"] for answer in answers], axis=0)
    assert counts.tolist() == [30, 30] and len(ids_of(answers)) == 60
    texts = [b"".join(answer.outputs["text_output"][index] for answer in answers) for index in range(2)]
    assert len(set(texts)) == 2
    if stream:
        (whole,) = contents(ask(host.grpc_url, PROMPT, parameters, **more | {"stream": False}))
        assert whole.outputs["text_output"].tolist() == texts


def test_a_stop_string_is_cut_in_both_modes(host: Host) -> None:
    parameters = {"max_tokens": 200, "temperature": 0, "ignore_eos": True}
    (plain,) = contents(ask(host.grpc_url, PROMPT, parameters, exclude_input_in_output=True))
    text = plain.outputs["text_output"][0].decode()
    stop = text[40:46]
    expected = text[: text.index(stop)].encode()
    for stream in (False, True):
        more = {"stream": stream, "exclude_input_in_output": True, "return_finish_reason": True}
        answers = contents(ask(host.grpc_url, PROMPT, parameters | {"stop": stop}, **more))
        assert text_of(answers) == expected
        assert answers[-1].outputs["finish_reason"].tolist() == [b"stop"]


def test_deltas_never_hold_half_a_character(host: Host) -> None:
    parameters = {"max_tokens": 120, "seed": 1, "temperature": 100, "ignore_eos": True}  # any bytes at all
    answers = contents(ask(host.grpc_url, PROMPT, parameters, stream=True))
    for answer in answers:
        answer.outputs["text_output"][0].decode()
    (whole,) = contents(ask(host.grpc_url, PROMPT, parameters, exclude_input_in_output=True))
    assert text_of(answers) == whole.outputs["text_output"][0]


# HTTP


def test_generate_and_generate_stream(host: Host) -> None:
    url = f"{host.http_url}/v2/models/flover"
    body = {"text_input": PROMPT, "max_tokens": 40, "temperature": 0, "exclude_input_in_output": True}
    status, whole = post(f"{url}/generate", body)
    streamed_status, events = post(f"{url}/generate_stream", body | {"stream": True})
    assert (status, streamed_status) == (200, 200)
    deltas = [json.loads(line.removeprefix("data: "))["text_output"] for line in events.splitlines() if line]
    assert "".join(deltas) == json.loads(whole)["text_output"]
    status, refused = post(f"{url}/generate", body | {"max_tokens": 0})
    assert status == 400 and json.loads(refused)["error"].startswith("RequestError: max_tokens: got 0")


# errors


BAD = {
    "max_tokens": {"parameters": {"max_tokens": 0}},
    "temperature": {"parameters": {"temperature": -1}},
    "colour": {"parameters": {"colour": 1}},
    "sampling_parameters": {"parameters": "no JSON"},
    "text_input": {"prompt": b"\xff\xfe"},
    "input_ids": {"prompt": [10**6]},
    "exclude_input_in_output": {"stream": True, "exclude_input_in_output": False},
}


@pytest.mark.parametrize("field", BAD)
def test_bad_input_is_named_and_harms_nobody(host: Host, field: str) -> None:
    case = dict(BAD[field])
    going_on = Call(host.grpc_url, arrays_of(PROMPT, {"max_tokens": 100, "temperature": 0}, stream=True))
    (refusal,) = ask(host.grpc_url, case.pop("prompt", PROMPT), case.pop("parameters", None), **case)
    assert refusal.final and refusal.error.startswith("RequestError: ") and refusal.error.endswith(" [INVALID_ARG]\n")
    assert field in refusal.error
    assert "Traceback" not in refusal.error and "/" not in refusal.error
    assert len(ids_of(contents(going_on.rest()))) == 100


def test_no_refusal_is_logged(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    ask(host.grpc_url, b"secret \xff")
    ask(host.grpc_url, PROMPT, {"stop": ["secret" * 100]})
    assert "secret" not in caplog.text and "Traceback" not in caplog.text


def test_an_empty_prompt_is_refused(host: Host) -> None:
    for prompt in ("", []):
        (refusal,) = ask(host.grpc_url, prompt)
        assert "the prompt is empty" in refusal.error


def test_errors_in_pytritons_client_and_in_ours(host: Host) -> None:
    with DecoupledModelClient(f"grpc://{host.grpc_url}", "flover") as client:
        responses = client.infer_sample(text_input=np.array([b"x"]), max_tokens=np.array([0], np.int32))
        with pytest.raises(PyTritonClientInferenceServerError, match="max_tokens: got 0"):
            list(responses)
    with Client(host.grpc_url) as ours, pytest.raises(InvalidArgument, match="max_tokens: got 0"):
        ours.generate(PROMPT, max_tokens=0)


def test_a_deadline_after_the_first_token_ends_the_stream_with_what_there_is(host: Host) -> None:
    answers = contents(ask(host.grpc_url, PROMPT, LONG | {"deadline_ms": 300}, stream=True, return_finish_reason=True))
    assert answers[-1].outputs["finish_reason"].tolist() == [b"deadline"]
    assert 0 < len(ids_of(answers)) < 2000


def test_a_full_queue_refuses_and_a_deadline_ends_what_waits(host: Host) -> None:
    running = Call(host.grpc_url, arrays_of(PROMPT, LONG | {"max_tokens": 600}, stream=True), "narrow")
    first = running.next()
    waiting = Call(host.grpc_url, arrays_of(PROMPT, {"deadline_ms": 1}), "narrow")
    assert waiting.rest()[-1].error.startswith("RequestError: deadline_ms passed")
    patient = Call(host.grpc_url, arrays_of(PROMPT, {"max_tokens": 1}), "narrow")
    wait_for(lambda: host.engines["narrow"].metrics()["flover_requests_waiting"] == 1)
    with Client(host.grpc_url, model="narrow") as client, pytest.raises(Unavailable, match="the queue is full: 1 "):
        client.generate(PROMPT)
    assert len(ids_of(contents([first, *running.rest()]))) == 600
    assert len(ids_of(contents(patient.rest()))) == 1


# cancellation, metrics, several models


def test_a_client_that_leaves_is_served_to_its_end(host: Host) -> None:
    before = host.wait_idle()
    call = Call(host.grpc_url, arrays_of(PROMPT, {"max_tokens": 300, "ignore_eos": True}, stream=True))
    call.next()
    call.cancel()
    after = host.wait_idle()
    name = 'flover_requests_finished_total{reason="%s"}'
    assert after[name % "length"] - before[name % "length"] == 1, "PyTriton 0.7 reports a cancel: use it"
    assert after[name % "cancelled"] == before[name % "cancelled"]


def test_metrics_count_what_is_saved(host: Host) -> None:
    before = host.wait_idle()
    answers = contents(ask(host.grpc_url, PROMPT, {"max_tokens": 200, "ignore_eos": True}, stream=True))
    after = host.wait_idle()
    saved = 200 - len(answers)
    name = "flover_coalesced_responses_total"
    wait_for(lambda: host.engine.metrics()[name] >= before[name] + saved)  # a chore of its own tells the engine
    assert after["flover_decode_tokens_total"] - before["flover_decode_tokens_total"] == 200
    assert after["flover_kv_blocks_used"] == 0


def test_two_models_in_one_program_at_once(host: Host) -> None:
    parameters = {"max_tokens": 100, "temperature": 0}
    with ThreadPoolExecutor(2) as pool:
        calls = [Call(host.grpc_url, arrays_of(PROMPT, parameters, stream=True), model) for model in host.engines]
        answers = [contents(answer) for answer in pool.map(Call.rest, calls)]
    assert ids_of(answers[0]) == ids_of(answers[1])
