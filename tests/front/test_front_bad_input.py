"""What bad input gets: a text that names field, value and what is allowed; after it a good request is served."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from fake_triton import InferenceRequest, TritonError, strings
from front_host import FrontHost, make_request


def nested(depth: int) -> str:
    return '{"stop": ' + "[" * depth + "]" * depth + "}"


NUL_KEYS = {"logit_bias": {str(number): 1 for number in range(1025)}}

# (sampling_parameters, what the text must hold)
BAD_PARAMETERS: list[tuple[object, list[str]]] = [
    ("{", ["sampling_parameters", "not JSON", "'{'"]),
    ("", ["sampling_parameters", "not JSON"]),
    ("[]", ["sampling_parameters", "[]", "JSON object"]),
    ("null", ["sampling_parameters", "None", "JSON object"]),
    (b'{"stop": "\xff"}', ["sampling_parameters", "not UTF-8"]),
    ('{"n": ' + "1" * 5000 + "}", ["n: got", "1 .. 8"]),
    ('{"stop": "' + "x" * 66_000 + '"}', ["sampling_parameters", "66012 bytes", "65536"]),
    (nested(30_000), ["sampling_parameters", "nested too deep"]),
    (nested(5), ["stop: got", "[[[[[]]]]]"]),
    ('{"n": 1, "n": 2}', ["sampling_parameters", "'n'", "twice"]),
    ({"temprature": 1}, ["'temprature'", "temperature"]),
    ({"x" * 3000: 1}, ["'xxx", "..."]),
    ({"max_tokens": 0}, ["max_tokens: got 0", "1 .. 100"]),
    ({"max_tokens": -5}, ["max_tokens: got -5", "1 .. 100"]),
    ({"max_tokens": 101}, ["max_tokens: got 101", "1 .. 100"]),
    ({"max_tokens": 1.5}, ["max_tokens: got 1.5"]),
    ({"max_tokens": "many"}, ["max_tokens: got 'many'"]),
    ({"max_tokens": "10x"}, ["max_tokens: got '10x'"]),
    ({"max_tokens": ""}, ["max_tokens: got ''"]),
    ({"max_tokens": True}, ["max_tokens: got True"]),
    ({"max_tokens": [1]}, ["max_tokens: got [1]"]),
    ({"max_tokens": 1e30}, ["max_tokens: got 1e+30"]),
    ({"min_tokens": -1}, ["min_tokens: got -1", "0 .. max_tokens"]),
    ({"min_tokens": 9, "max_tokens": 8}, ["min_tokens: got 9", "max_tokens, which is 8"]),
    ({"min_tokens": 17}, ["min_tokens: got 17", "max_tokens, which is 16"]),
    ({"temperature": -0.1}, ["temperature: got -0.1", "0 (greedy) .. 100"]),
    ({"temperature": 100.5}, ["temperature: got 100.5"]),
    ({"temperature": "hot"}, ["temperature: got 'hot'"]),
    ({"temperature": False}, ["temperature: got False"]),
    ('{"temperature": NaN}', ["temperature: got nan", "finite"]),
    ('{"temperature": Infinity}', ["temperature: got inf", "finite"]),
    ('{"temperature": 1e999}', ["temperature: got inf"]),
    ({"temperature": "nan"}, ["temperature: got 'nan'"]),
    ({"temperature": 1e39}, ["temperature: got 1e+39"]),
    ({"top_k": -2}, ["top_k: got -2", "0 or -1 (off), 1 .. 1024"]),
    ({"top_k": 1025}, ["top_k: got 1025"]),
    ({"top_p": 0}, ["top_p: got 0", "above 0, up to 1"]),
    ({"top_p": 1.01}, ["top_p: got 1.01"]),
    ({"min_p": -0.1}, ["min_p: got -0.1", "0 .. 1"]),
    ({"min_p": 2}, ["min_p: got 2"]),
    ({"repetition_penalty": 0}, ["repetition_penalty: got 0", "above 0, up to 10"]),
    ({"repetition_penalty": 11}, ["repetition_penalty: got 11"]),
    ({"presence_penalty": 2.5}, ["presence_penalty: got 2.5", "-2 .. 2"]),
    ({"frequency_penalty": -2.5}, ["frequency_penalty: got -2.5", "-2 .. 2"]),
    ({"seed": -(2**63) - 1}, ["seed: got -9223372036854775809", "-2^63 .. 2^64-1"]),
    ({"seed": 2**64}, ["seed: got 18446744073709551616"]),
    ({"seed": "abc"}, ["seed: got 'abc'"]),
    ({"stop": ""}, ["stop: got ''", "0 bytes", "1 .. 256 bytes"]),
    ({"stop": [""]}, ["stop: got ['']"]),
    ({"stop": "x" * 257}, ["stop", "257 bytes", "256"]),
    ({"stop": "ä" * 129}, ["stop", "258 bytes"]),
    ({"stop": ["a"] * 65}, ["stop", "65 entries", "64"]),
    ({"stop": ["a"] * 5000}, ["stop", "5000 entries"]),
    ({"stop": [1]}, ["stop: got [1]"]),
    ({"stop": 7}, ["stop: got 7"]),
    ('{"stop": "\\ud800"}', ["stop", "not valid Unicode"]),
    ({"stop_token_ids": 5}, ["stop_token_ids: got 5", "0 .. 1023"]),
    ({"stop_token_ids": [1024]}, ["stop_token_ids: got [1024]"]),
    ({"stop_token_ids": [-1]}, ["stop_token_ids: got [-1]"]),
    ({"stop_token_ids": [3] * 65}, ["stop_token_ids", "65 entries"]),
    ({"ignore_eos": "maybe"}, ["ignore_eos: got 'maybe'", "true or false"]),
    ({"ignore_eos": 2}, ["ignore_eos: got 2"]),
    ({"logprobs": 21}, ["logprobs: got 21", "0 .. 20"]),
    ({"logprobs": -1}, ["logprobs: got -1"]),
    ({"logprobs": True, "top_logprobs": 21}, ["top_logprobs: got 21", "0 .. 20"]),
    ({"top_logprobs": 3}, ["top_logprobs: got 3", "logprobs true"]),
    ({"logprobs": False, "top_logprobs": 3}, ["top_logprobs: got 3", "logprobs = False"]),
    ({"n": 0}, ["n: got 0", "1 .. 8"]),
    ({"n": 9}, ["n: got 9", "1 .. 8"]),
    ({"best_of": 3}, ["best_of: got 3", "equal to n"]),
    ({"best_of": 3, "n": 2}, ["best_of: got 3 with n = 2"]),
    ({"use_beam_search": True}, ["use_beam_search", "beam search is not supported"]),
    ({"beam_width": 4}, ["beam_width", "beam search is not supported"]),
    ({"length_penalty": 1.0}, ["length_penalty", "beam search is not supported"]),
    ({"logit_bias": {"1024": 1}}, ["logit_bias", "0 .. 1023"]),
    ({"logit_bias": {"x": 1}}, ["logit_bias"]),
    ({"logit_bias": {"1": 101}}, ["logit_bias", "-100 .. 100"]),
    ({"logit_bias": {"1": 5, "01": 6}}, ["logit_bias", "twice"]),
    ({"logit_bias": [1]}, ["logit_bias: got [1]"]),
    (NUL_KEYS, ["logit_bias", "1025 entries", "1024"]),
    ({"deadline_ms": 0}, ["deadline_ms: got 0", "1 .. 86400000"]),
    ({"deadline_ms": 86_400_001}, ["deadline_ms: got 86400001"]),
    ({"stream": True}, ["stream", "input tensor"]),
    ({"text_input": "x"}, ["text_input", "input tensor"]),
]


@pytest.mark.parametrize(("parameters", "said"), BAD_PARAMETERS, ids=lambda value: repr(value)[:40])
def test_a_bad_parameter(host: FrontHost, parameters: object, said: list[str]) -> None:
    text = host.refusal([1, 2, 3], parameters)
    assert all(part in text for part in said), text
    assert len(text) < 1000


BAD_PROMPTS: list[tuple[dict[str, Any], list[str]]] = [
    ({}, ["neither text_input nor input_ids"]),
    ({"text_input": strings("a"), "input_ids": np.array([1], np.int32)}, ["both text_input and input_ids"]),
    ({"text_input": strings("")}, ["text_input", "empty"]),
    ({"text_input": strings(b"ab\xff")}, ["text_input", "not UTF-8 at byte 2", "xff"]),
    ({"text_input": strings(b"\xed\xa0\x80")}, ["text_input", "not UTF-8"]),
    ({"text_input": strings("x" * 601)}, ["text_input", "601 bytes", "600"]),
    ({"text_input": strings("q7" * 200)}, ["text_input", "prompt tokens", "1 .. 127"]),
    ({"text_input": strings("a", "b")}, ["text_input", "2 elements", "shape [1]"]),
    ({"input_ids": np.array([], np.int32)}, ["input_ids", "empty"]),
    ({"input_ids": np.array([5, 1024], np.int32)}, ["input_ids", "token id 1024 at position 1", "0 .. 1023"]),
    ({"input_ids": np.array([-1], np.int32)}, ["input_ids", "token id -1 at position 0"]),
    ({"input_ids": np.full(128, 5, np.int32)}, ["input_ids", "128 prompt tokens", "1 .. 127"]),
    ({"input_ids": np.array([[5]], np.int32)}, ["input_ids", "INT32"]),
    ({"input_ids": np.array([5], np.int64)}, ["input_ids", "int64", "INT32"]),
]


@pytest.mark.parametrize(("arrays", "said"), BAD_PROMPTS, ids=lambda value: repr(value)[:40])
def test_a_bad_prompt(host: FrontHost, arrays: dict[str, np.ndarray], said: list[str]) -> None:
    error = host.send(InferenceRequest(arrays)).error()
    assert error.code == TritonError.INVALID_ARG
    assert all(part in str(error) for part in said), error
    assert not host.client.submitted


def test_a_max_tokens_that_does_not_fit_with_the_prompt_names_both_and_the_limit(host: FrontHost) -> None:
    text = host.refusal([1] * 100, {"max_tokens": 29})
    assert all(part in text for part in ("max_tokens: got 29", "100 prompt tokens", "128", "1 .. 28")), text


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("max_tokens", np.int32(0), "max_tokens: got 0 as input tensor; allowed: 1 .. 100"),
        ("temperature", np.float32(math.nan), "temperature: got nan as input tensor"),
        ("temperature", np.float32(math.inf), "temperature: got inf as input tensor"),
        ("top_p", np.float32(-math.inf), "top_p: got -inf as input tensor"),
        ("top_k", np.int32(-7), "top_k: got -7 as input tensor"),
    ],
)
def test_a_bad_tensor(host: FrontHost, name: str, value: Any, said: str) -> None:
    assert said in host.refusal([1], **{name: value})


def test_a_parameter_tensor_with_two_elements(host: FrontHost) -> None:
    assert "max_tokens: 2 elements" in host.refusal([1], max_tokens=np.array([1, 2], np.int32))


def test_an_unknown_request_parameter_is_named(host: FrontHost) -> None:
    text = host.refusal([1], request_parameters={"temprature": "1"})
    assert "'temprature'" in text and "request parameter" in text


def test_tritons_timeout_is_checked(host: FrontHost) -> None:
    text = host.refusal([1], request_parameters={"timeout": -1})
    assert "timeout: got -1 as request parameter; allowed: 0 (none) .. 86400000000 us" in text


def test_tritons_timeout_is_no_sampling_parameter(host: FrontHost) -> None:
    assert "unknown name 'timeout' as sampling_parameters" in host.refusal([1], {"timeout": 5})


def test_a_bad_request_parameter_is_named(host: FrontHost) -> None:
    assert "top_p: got '7' as request parameter" in host.refusal([1], request_parameters={"top_p": "7"})


@pytest.mark.parametrize(
    ("tensors", "parameters", "request_parameters"),
    [
        ({"temperature": np.float32(0.1)}, {"temperature": 0.2}, {}),
        ({"temperature": np.float32(0.1)}, None, {"temperature": "0.2"}),
        ({}, {"temperature": 0.1}, {"temperature": "0.2"}),
        ({"seed": np.uint64(5)}, {"seed": -5}, {}),
        ({"ignore_eos": np.bool_(True)}, {"ignore_eos": "false"}, {}),
        ({"max_tokens": np.int32(3)}, {"max_tokens": "4"}, {}),
    ],
)
def test_the_same_parameter_twice_with_different_values(
    host: FrontHost, tensors: dict[str, Any], parameters: object, request_parameters: dict[str, Any]
) -> None:
    text = host.refusal([1], parameters, request_parameters=request_parameters, **tensors)
    assert "give it once, or the same value" in text


def test_a_stream_with_the_prompt_in_it_is_refused(host: FrontHost) -> None:
    text = host.refusal("Hello", stream=True, exclude_input_in_output=False)
    assert "exclude_input_in_output: got false with stream true" in text


def test_text_without_a_tokenizer_is_refused(bare_host: FrontHost) -> None:
    assert "no tokenizer.json" in bare_host.refusal("Hello")


def test_stop_strings_without_a_tokenizer_are_refused(bare_host: FrontHost) -> None:
    assert "stop: this model has no tokenizer.json" in bare_host.refusal([1], {"stop": "x"})


def test_refusals_are_counted_by_reason(host: FrontHost) -> None:
    for _ in range(3):
        host.ask(b"").error()
    host.close()
    assert sum(rejected.get("invalid_arg", 0) for _, rejected in host.client.stats) == 3


def test_a_request_whose_inputs_cannot_be_read_gets_internal(host: FrontHost) -> None:
    request = make_request()
    request.parameters = lambda: 1 / 0  # type: ignore[method-assign, return-value, assignment]
    error = host.send(request).error()
    assert error.code == TritonError.INTERNAL
    assert "could not be read" in str(error)


def test_an_error_text_does_not_repeat_a_huge_value(host: FrontHost) -> None:
    assert len(host.refusal([1], json.dumps({"stop": ["y" * 300] * 60}))) < 400
