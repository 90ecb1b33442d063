"""What good requests become: defaults, casts, places a parameter may come from, names that are ignored."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from front_host import FrontHost

from flover_backend.front.tokenizer import Tokenizer
from flover_backend.request import SamplingParams


def params(host: FrontHost, parameters: object = None, **arrays: Any) -> SamplingParams:
    return host.accepted([1, 2, 3], parameters, **arrays).params


def test_defaults(host: FrontHost) -> None:
    found = params(host)
    expected = SamplingParams(max_tokens=16, seed=found.seed)
    assert found == expected
    assert 0 <= found.seed < 2**64


def test_random_seeds_differ(host: FrontHost) -> None:
    host.ask([1])
    host.ask([1])
    assert host.client.wait_submitted(1).params.seed != host.client.wait_submitted(2).params.seed


def test_the_default_max_tokens_shrinks_to_what_fits(host: FrontHost) -> None:
    assert host.accepted([1] * 120).params.max_tokens == 8


def test_max_tokens_may_fill_the_model_exactly(host: FrontHost) -> None:
    assert host.accepted([1] * 100, {"max_tokens": 28}).params.max_tokens == 28


@pytest.mark.parametrize(
    ("given", "name", "expected"),
    [
        ({"max_tokens": "100"}, "max_tokens", 100),
        ({"max_tokens": 5.0}, "max_tokens", 5),
        ({"max_tokens": " 5 "}, "max_tokens", 5),
        ({"temperature": "0"}, "temperature", 0.0),
        ({"temperature": 0.1}, "temperature", float(np.float32(0.1))),
        ({"temperature": "0.1"}, "temperature", float(np.float32(0.1))),
        ({"temperature": "1e-1"}, "temperature", float(np.float32(0.1))),
        ({"top_k": -1}, "top_k", 0),
        ({"top_k": "50"}, "top_k", 50),
        ({"top_p": ".5"}, "top_p", 0.5),
        ({"min_p": 0.05}, "min_p", 0.05),
        ({"repetition_penalty": "1.1"}, "repetition_penalty", 1.1),
        ({"presence_penalty": -2}, "presence_penalty", -2.0),
        ({"frequency_penalty": 2}, "frequency_penalty", 2.0),
        ({"seed": -1}, "seed", 2**64 - 1),
        ({"seed": 2**64 - 1}, "seed", 2**64 - 1),
        ({"seed": "18446744073709551615"}, "seed", 2**64 - 1),
        ({"seed": -(2**63)}, "seed", 2**63),
        ({"stop_token_ids": [3, "4"]}, "stop_token_ids", (3, 4)),
        ({"ignore_eos": "false"}, "ignore_eos", False),
        ({"ignore_eos": "True"}, "ignore_eos", True),
        ({"ignore_eos": 1}, "ignore_eos", True),
        ({"n": "2", "best_of": 2}, "n", 2),
        ({"n": 2, "best_of": 1}, "n", 2),
        ({"logit_bias": {"7": "-100", "8": 1}}, "logit_bias", {7: -100.0, 8: 1.0}),
        ({"temperature": None}, "temperature", 1.0),
        ({"stop": None, "seed": 3}, "seed", 3),
    ],
)
def test_a_key_of_sampling_parameters(host: FrontHost, given: object, name: str, expected: object) -> None:
    assert getattr(params(host, given), name) == expected


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("max_tokens", np.int32(9), 9),
        ("min_tokens", np.int32(2), 2),
        ("top_k", np.int32(3), 3),
        ("temperature", np.float32(0.1), float(np.float32(0.1))),
        ("top_p", np.float32(0.9), float(np.float32(0.9))),
        ("seed", np.uint64(2**64 - 1), 2**64 - 1),
        ("ignore_eos", np.bool_(True), True),
    ],
)
def test_a_parameter_as_a_tensor(host: FrontHost, name: str, value: Any, expected: object) -> None:
    assert getattr(params(host, **{name: value}), name) == expected


def test_the_same_value_from_all_three_places_is_one_value(host: FrontHost) -> None:
    found = params(
        host,
        {"temperature": 0.1, "max_tokens": "7"},
        temperature=np.float32(0.1),
        max_tokens=np.int32(7),
        request_parameters={"temperature": "0.1", "max_tokens": 7},
    )
    assert (found.temperature, found.max_tokens) == (float(np.float32(0.1)), 7)


def test_a_negative_seed_equals_its_unsigned_tensor(host: FrontHost) -> None:
    assert params(host, {"seed": -1}, seed=np.uint64(2**64 - 1)).seed == 2**64 - 1


def test_names_that_triton_adds_are_ignored(host: FrontHost) -> None:
    added = {
        "id": "42",
        "triton_enable_empty_final_response": True,
        "sequence_id": 5,
        "sequence_start": True,
        "binary_data_output": True,
        "X-Request-Id": "abc",
        "x-forwarded-for": "127.0.0.1",
    }
    assert params(host, request_parameters={**added, "max_tokens": 3}).max_tokens == 3


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, 0),
        ({"logprobs": 5}, 5),
        ({"logprobs": "5"}, 5),
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 4}, 4),
        ({"logprobs": "true", "top_logprobs": "4"}, 4),
        ({"logprobs": 3, "top_logprobs": 3}, 3),
        ({"logprobs": False, "top_logprobs": 0}, 0),
    ],
)
def test_logprobs_are_computed_when_they_are_returned(host: FrontHost, given: object, wanted: int) -> None:
    assert params(host, given, return_logprobs=True).logprobs == wanted
    host.ask([1], given)
    assert host.client.wait_submitted(2).params.logprobs == -1


def test_the_cumulative_logprob_is_asked_of_the_engine(host: FrontHost) -> None:
    assert params(host, return_cumulative_logprob=True).cumulative_logprob


def test_text_becomes_the_tokenizers_ids(host: FrontHost, tokenizer: Tokenizer) -> None:
    assert host.accepted("Once upon").prompt_ids == tokenizer.encode("Once upon")


def test_a_deadline_counts_from_arrival(host: FrontHost) -> None:
    request = host.accepted([1], {"deadline_ms": 1500})
    assert request.deadline is not None
    assert request.deadline - request.arrival_time == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ({"timeout_us": 700_000}, 0.7),
        ({"request_parameters": {"timeout": 700_000}}, 0.7),
        ({"request_parameters": {"timeout": "700000"}}, 0.7),
        ({"timeout_us": 700_000, "parameters": {"deadline_ms": 1500}}, 0.7),
        ({"timeout_us": 1_700_000, "parameters": {"deadline_ms": 1500}}, 1.5),
        ({"timeout_us": 10**18}, 10**12),
    ],
)
def test_tritons_own_timeout_is_a_deadline_too_and_the_earliest_counts(
    host: FrontHost, given: dict[str, Any], seconds: float
) -> None:
    request = host.accepted([1], **given)
    assert request.deadline is not None
    assert request.deadline - request.arrival_time == pytest.approx(seconds)


@pytest.mark.parametrize("given", [{"timeout_us": 0}, {"request_parameters": {"timeout": 0, "priority": 3}}])
def test_a_timeout_of_zero_is_none_and_a_priority_changes_nothing(host: FrontHost, given: dict[str, Any]) -> None:
    assert host.accepted([1], **given).deadline is None


def test_the_engine_is_told_of_stop_strings(host: FrontHost) -> None:
    assert host.accepted([1], {"stop": ["x", "y"]}).has_stop_strings


def test_the_limits_of_json_are_allowed(host: FrontHost) -> None:
    everything = {
        "stop": ["s" * 256] * 64,
        "stop_token_ids": list(range(64)),
        "logit_bias": {str(number): 1 for number in range(1024)},
    }
    assert len(json.dumps(everything)) < 64 * 1024
    assert len(params(host, everything).logit_bias) == 1024
