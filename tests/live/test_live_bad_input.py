"""What bad input gets over the wire: INVALID_ARG with name, value and what is allowed; then a good request answers."""

from __future__ import annotations

import json
import math
import socket
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from live_metrics import series, value, wait_idle, wait_settled
from live_server import LiveServer, wait_for
from triton_client import Call, arrays_of, ask, ids_of, post

GOOD = {"temperature": 0, "max_tokens": 3, "ignore_eos": True}


def text(*values: str | bytes) -> np.ndarray:
    return np.array([entry.encode() if isinstance(entry, str) else entry for entry in values], np.object_)


def nested(depth: int) -> str:
    return '{"stop": ' + "[" * depth + "]" * depth + "}"


@pytest.fixture(autouse=True)
def a_good_request_still_answers(server: LiveServer) -> Iterator[None]:
    """After each test, on both fronts; and nothing is held."""
    yield
    runs = [ids_of(ask(server.grpc_url, [5, 6, 7], GOOD)) for _ in range(2)]
    assert len(runs[0]) == 3
    assert runs[0] == runs[1]


PROMPTS: dict[str, tuple[dict[str, np.ndarray], tuple[str, ...]]] = {
    "neither input": ({"stream": np.array([False])}, ("neither text_input nor input_ids",)),
    "both inputs": (
        {"text_input": text("a"), "input_ids": np.array([5], np.int32)},
        ("both text_input and input_ids",),
    ),
    "empty text": ({"text_input": text("")}, ("text_input", "empty")),
    "no ids": ({"input_ids": np.array([], np.int32)}, ("input_ids", "empty")),
    "not UTF-8": ({"text_input": text(b"ab\xff")}, ("text_input", "not UTF-8 at byte 2", "xff")),
    "half a character": ({"text_input": text("世".encode()[:2])}, ("text_input", "not UTF-8 at byte 0")),
    "a surrogate": ({"text_input": text(b"\xed\xa0\x80")}, ("text_input", "not UTF-8")),
    "an id too large": ({"input_ids": np.array([5, 1536], np.int32)}, ("token id 1536 at position 1", "0 .. 1535")),
    "a negative id": ({"input_ids": np.array([-1], np.int32)}, ("token id -1 at position 0", "0 .. 1535")),
    "ids beyond the limit": ({"input_ids": np.full(2048, 5, np.int32)}, ("2048 prompt tokens", "1 .. 2047")),
    "text beyond the limit": ({"text_input": text("q7" * 4000)}, ("text_input", "prompt tokens", "1 .. 2047")),
    "text of too many bytes": ({"text_input": text("x" * 40_000)}, ("text_input", "40000 bytes", "32768")),
    "text of 32 MiB": ({"text_input": text("x" * (1 << 25))}, ("text_input", "33554432 bytes", "32768")),
    "millions of ids": ({"input_ids": np.full(1 << 22, 5, np.int32)}, ("4194304 prompt tokens", "1 .. 2047")),
}


@pytest.mark.parametrize(("arrays", "said"), PROMPTS.values(), ids=PROMPTS)
def test_a_bad_prompt(server: LiveServer, arrays: dict[str, np.ndarray], said: tuple[str, ...]) -> None:
    (answer,) = Call(server.grpc_url, arrays).rest()
    assert all(part in answer.error for part in said), answer.error


PARAMETERS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "max_tokens 0": ({"max_tokens": 0}, ("max_tokens: got 0", "1 .. 2048")),
    "max_tokens beyond the limit": ({"max_tokens": 2049}, ("max_tokens: got 2049", "1 .. 2048")),
    "prompt and max_tokens": ({"max_tokens": 2046}, ("max_tokens: got 2046", "3 prompt tokens", "2048", "1 .. 2045")),
    "min above max": ({"min_tokens": 9, "max_tokens": 8}, ("min_tokens: got 9", "8")),
    "temperature below 0": ({"temperature": -0.1}, ("temperature: got -0.1", "0 (greedy) .. 100")),
    "temperature NaN": ('{"temperature": NaN}', ("temperature: got nan", "finite")),
    "temperature infinite": ('{"temperature": -Infinity}', ("temperature: got -inf",)),
    "temperature 1e999": ('{"temperature": 1e999}', ("temperature: got inf",)),
    "top_p 0": ({"top_p": 0}, ("top_p: got 0", "above 0, up to 1")),
    "top_p NaN": ('{"top_p": NaN}', ("top_p: got nan",)),
    "top_k below -1": ({"top_k": -2}, ("top_k: got -2",)),
    "min_p above 1": ({"min_p": 1.5}, ("min_p: got 1.5", "0 .. 1")),
    "repetition_penalty 0": ({"repetition_penalty": 0}, ("repetition_penalty: got 0", "above 0, up to 10")),
    "presence_penalty": ({"presence_penalty": 3}, ("presence_penalty: got 3", "-2 .. 2")),
    "frequency_penalty": ({"frequency_penalty": -3}, ("frequency_penalty: got -3", "-2 .. 2")),
    "seed": ({"seed": 2**64}, ("seed: got 18446744073709551616", "-2^63 .. 2^64-1")),
    "n 0": ({"n": 0}, ("n: got 0", "1 .. 32")),
    "n above the rows": ({"n": 33}, ("n: got 33", "1 .. 32")),
    "best_of above n": ({"best_of": 3}, ("best_of: got 3", "equal to n")),
    "beam search": ({"use_beam_search": True}, ("use_beam_search", "not supported")),
    "logprobs": ({"logprobs": 21}, ("logprobs: got 21", "0 .. 20")),
    "logit_bias of no token": ({"logit_bias": {"1536": 1}}, ("logit_bias", "0 .. 1535")),
    "logit_bias of thousands": ({"logit_bias": {str(i): 1 for i in range(1500)}}, ("logit_bias", "1500", "1024")),
    "deadline 0": ({"deadline_ms": 0}, ("deadline_ms: got 0", "1 .. 86400000")),
    "an empty stop string": ({"stop": ""}, ("stop", "0 bytes", "1 .. 256")),
    "thousands of stop strings": ({"stop": ["a"] * 5000}, ("stop", "5000 entries", "64")),
    "a huge stop string": ({"stop": "x" * 5000}, ("stop", "5000 bytes", "256")),
    "stop_token_ids": ({"stop_token_ids": [1536]}, ("stop_token_ids", "0 .. 1535")),
    "an unknown key": ({"temprature": 1}, ("'temprature'", "temperature")),
    "an input as a key": ({"stream": True}, ("stream", "input tensor")),
    "malformed JSON": ("{", ("sampling_parameters", "not JSON")),
    "JSON of another kind": ("[]", ("sampling_parameters", "[]", "JSON object")),
    "JSON that is not UTF-8": (b'{"stop": "\xff"}', ("sampling_parameters", "not UTF-8")),
    "a key twice": ('{"n": 1, "n": 2}', ("'n'", "twice")),
    "huge JSON": ('{"stop": "' + "x" * 1_000_000 + '"}', ("sampling_parameters", "65536")),
    "deeply nested JSON": (nested(30_000), ("sampling_parameters", "nested too deep")),
    "JSON beyond the depth": (nested(8), ("sampling_parameters", "nested too deep; at most 8 objects and lists")),
    "JSON of the depth": (nested(7), ("stop: got",)),
    "a huge number": ('{"n": ' + "1" * 5000 + "}", ("n: got", "1 .. 32")),
}


@pytest.mark.parametrize(("parameters", "said"), PARAMETERS.values(), ids=PARAMETERS)
def test_a_bad_parameter(server: LiveServer, parameters: Any, said: tuple[str, ...]) -> None:
    raw = json.dumps(parameters) if isinstance(parameters, dict) else parameters
    (answer,) = Call(server.grpc_url, arrays_of([5, 6, 7], sampling_parameters=text(raw))).rest()
    assert all(part in answer.error for part in said), answer.error
    assert len(answer.error) < 1000


@pytest.mark.parametrize(
    ("name", "array", "said"),
    [
        ("max_tokens", np.array([0], np.int32), "max_tokens: got 0 as input tensor"),
        ("temperature", np.array([math.nan], np.float32), "temperature: got nan as input tensor"),
        ("temperature", np.array([math.inf], np.float32), "temperature: got inf as input tensor"),
        ("top_p", np.array([-math.inf], np.float32), "top_p: got -inf as input tensor"),
        ("top_k", np.array([-7], np.int32), "top_k: got -7 as input tensor"),
        ("max_tokens", np.array([4], np.int64), "max_tokens"),
        ("max_tokens", np.array([4, 5], np.int32), "max_tokens"),
        ("stream", np.array([[True]]), "stream"),
        ("text_input", text("a", "b"), "text_input"),
        ("text_input", np.array([1], np.int32), "text_input"),
        ("unknown_tensor", np.array([1], np.int32), "unknown_tensor"),
    ],
    ids=lambda entry: repr(entry)[:40],
)
def test_a_tensor_of_a_wrong_value_type_or_shape(server: LiveServer, name: str, array: np.ndarray, said: str) -> None:
    arrays = {name: array} if name == "text_input" else arrays_of([5, 6, 7]) | {name: array}
    (answer,) = Call(server.grpc_url, arrays).rest()
    assert said in answer.error


def test_ids_of_a_wrong_type_or_shape(server: LiveServer) -> None:
    for ids in (np.array([5], np.int64), np.array([5], np.float32), np.array([[5, 6]], np.int32)):
        (answer,) = Call(server.grpc_url, {"input_ids": ids}).rest()
        assert "input_ids" in answer.error


def test_a_parameter_twice_with_different_values(server: LiveServer) -> None:
    (answer,) = ask(server.grpc_url, [5], {"max_tokens": 4}, max_tokens=np.array([5], np.int32))
    assert "max_tokens" in answer.error
    assert "give it once, or the same value" in answer.error


def test_an_unknown_request_parameter(server: LiveServer) -> None:
    (answer,) = Call(server.grpc_url, arrays_of([5]), parameters={"temprature": "1"}).rest()
    assert "'temprature' as request parameter" in answer.error


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "neither text_input nor input_ids"),
        ({"text_input": ""}, "the prompt is empty"),
        ({"text_input": "x", "max_tokens": 0}, "max_tokens: got 0"),
        ({"text_input": "x", "temprature": 1}, "'temprature'"),
        ({"text_input": "x", "stop": ""}, "stop: got ''"),
        ({"text_input": "x", "sampling_parameters": '{"n": 0}'}, "n: got 0"),
    ],
    ids=lambda entry: repr(entry)[:40],
)
def test_bad_input_over_http_is_a_400(server: LiveServer, body: dict[str, Any], said: str) -> None:
    status, answer = post(f"{server.http_url}/v2/models/flover/generate", body)
    assert status == 400
    assert said in json.loads(answer)["error"]


def test_a_body_that_is_no_json_is_a_500_of_tritons(server: LiveServer) -> None:
    with socket.create_connection(("127.0.0.1", server.http_port)) as connection:
        connection.sendall(
            b"POST /v2/models/flover/generate HTTP/1.1\r\n"
            b"Host: x\r\nConnection: close\r\nContent-Length: 5\r\n\r\n{{{{{"
        )
        assert b" 500 " in connection.recv(4096).splitlines()[0]


def test_a_stream_on_generate_is_tritons_error(server: LiveServer) -> None:
    body = {"text_input": "x", "stream": True, "max_tokens": 4, "ignore_eos": True}
    _, answer = post(f"{server.http_url}/v2/models/flover/generate", body)
    assert "error" in json.loads(answer)


def test_refusals_are_counted_and_hold_nothing(server: LiveServer) -> None:
    before = wait_settled(server)[series("flover_requests_rejected_total", reason="invalid_arg")]
    for _ in range(5):
        ask(server.grpc_url, [5], {"n": 0})
    wait_for(lambda: value(server, "flover_requests_rejected_total", reason="invalid_arg") == before + 5)
    wait_idle(server)


def test_one_bad_request_does_not_touch_another(server: LiveServer) -> None:
    parameters = {"temperature": 0, "max_tokens": 60, "ignore_eos": True}
    alone = ids_of(ask(server.grpc_url, [5, 6, 7], parameters))
    call = Call(server.grpc_url, arrays_of([5, 6, 7], parameters, stream=True))
    answers = [call.next()]
    for _ in range(4):
        assert ask(server.grpc_url, [5], {"n": 0})[0].error
    assert ids_of(answers + call.rest()) == alone
