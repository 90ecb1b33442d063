"""Request shapes that other people's clients send to a vllm backend, as they send them: each must be accepted.

Read from their sources: Triton's OpenAI frontend (server: python/openai, engine/utils/triton.py and schemas),
genai-perf (perf_analyzer: inputs/converters/vllm_converter.py), the vllm backend's sample client, perf_analyzer.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from fake_triton import InferenceRequest, ResponseSender, strings
from front_host import FrontHost

from flover_backend.request import FinishReason, Request

# What the frontend leaves in sampling_parameters of a request that sets nothing but the prompt.
CHAT_DEFAULTS = {
    "frequency_penalty": 0.0,
    "ignore_eos": False,
    "logprobs": False,
    "n": 1,
    "presence_penalty": 0.0,
    "temperature": 0.7,
    "top_p": 1.0,
    "max_tokens": 16,
}
COMPLETION_DEFAULTS = {
    "best_of": 1,
    "frequency_penalty": 0.0,
    "ignore_eos": False,
    "n": 1,
    "presence_penalty": 0.0,
    "temperature": 1.0,
    "top_p": 1.0,
    "max_tokens": 16,
}
FRONTEND_OUTPUTS = ("text_output", "output_ids", "finish_reason", "num_input_tokens", "num_output_tokens")


def frontend_request(sampling: dict[str, Any], stream: bool, exclude: bool = True) -> InferenceRequest:
    return InferenceRequest(
        {
            "text_input": strings("Once upon"),
            "stream": np.array([stream]),
            "exclude_input_in_output": np.array([exclude]),
            "sampling_parameters": strings(json.dumps(sampling)),
            "return_num_input_tokens": np.array([True]),
            "return_num_output_tokens": np.array([True]),
        },
        requested=FRONTEND_OUTPUTS,
    )


def sent(host: FrontHost, request: InferenceRequest) -> tuple[Request, ResponseSender]:
    sender = host.send(request)
    return host.client.wait_submitted(), sender


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "sampling",
    [
        CHAT_DEFAULTS,
        COMPLETION_DEFAULTS,
        {**CHAT_DEFAULTS, "logprobs": True, "top_logprobs": 5},
        {**CHAT_DEFAULTS, "seed": -9223372036854775808, "stop": ["\n", "END"], "min_tokens": 1},
        {**CHAT_DEFAULTS, "logit_bias": {"50": -100}, "stop": "x"},
        {**COMPLETION_DEFAULTS, "logprobs": 5},
    ],
    ids=["chat", "completion", "chat-logprobs", "chat-seed-stop", "chat-bias", "completion-logprobs"],
)
def test_the_openai_frontend(host: FrontHost, sampling: dict[str, Any], stream: bool) -> None:
    request, sender = sent(host, frontend_request(sampling, stream))
    assert request.params.max_tokens == 16
    host.tokens(request, [40, 41], FinishReason.LENGTH)
    (response,) = sender.wait()
    # The frontend reads one string, and the first element of two UINT32 tensors.
    assert response.outputs["text_output"].size == 1
    assert response.outputs["num_input_tokens"].dtype == np.uint32
    assert response.outputs["num_output_tokens"].tolist() == [2]
    assert response.outputs["num_output_tokens"].dtype == np.uint32


def test_the_openai_frontend_with_echo(host: FrontHost) -> None:
    request, sender = sent(host, frontend_request(COMPLETION_DEFAULTS, stream=False, exclude=False))
    host.tokens(request, [40], FinishReason.LENGTH)
    assert sender.wait()[0].outputs["text_output"][0].startswith(b"Once upon")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("deterministic", [False, True])
def test_genai_perf(host: FrontHost, stream: bool, deterministic: bool) -> None:
    sampling = {"max_tokens": "20"} | ({"min_tokens": "20"} if deterministic else {})
    arrays = {
        "text_input": strings("Once upon"),
        "exclude_input_in_output": np.array([True]),
        "sampling_parameters": strings(json.dumps(sampling)),
    } | ({"stream": np.array([True])} if stream else {})
    request, _ = sent(host, InferenceRequest(arrays, {"triton_enable_empty_final_response": True}))
    assert request.params.max_tokens == 20
    assert request.params.min_tokens == (20 if deterministic else 0)


def test_genai_perf_with_extra_inputs(host: FrontHost) -> None:
    arrays = {
        "text_input": strings("Once upon"),
        "exclude_input_in_output": np.array([True]),
        "stream": np.array([True]),
        "ignore_eos": np.array([True]),
        "max_tokens": np.array([20], np.int32),
        "temperature": np.array([0], np.float32),
    }
    request, _ = sent(host, InferenceRequest(arrays))
    assert (request.params.ignore_eos, request.params.max_tokens, request.params.temperature) == (True, 20, 0.0)


def test_perf_analyzer_with_token_ids(host: FrontHost) -> None:
    arrays = {
        "input_ids": np.array([5, 6, 7], np.int32),
        "stream": np.array([True]),
        "max_tokens": np.array([20], np.int32),
        "ignore_eos": np.array([True]),
    }
    request, _ = sent(host, InferenceRequest(arrays, {"triton_enable_empty_final_response": True}))
    assert request.prompt_ids == [5, 6, 7]


def test_the_vllm_backends_sample_client(host: FrontHost) -> None:
    """It sends its parameters twice: as the JSON tensor and as request parameters, all values strings."""
    sampling = {"temperature": "0.1", "top_p": "0.95", "max_tokens": "100"}
    arrays = {
        "text_input": strings("Once upon"),
        "stream": np.array([False]),
        "sampling_parameters": strings(json.dumps(sampling)),
    }
    request, sender = sent(host, InferenceRequest(arrays, dict(sampling), requested=("text_output",)))
    assert request.params.max_tokens == 100
    host.tokens(request, [40], FinishReason.STOP)
    assert len(sender.wait()) == 1


def test_curl_on_generate(host: FrontHost) -> None:
    """`/generate` makes tensors of the fields that are inputs, and request parameters of the rest."""
    arrays = {"text_input": strings("Once upon"), "max_tokens": np.array([5], np.int32)}
    request, _ = sent(host, InferenceRequest(arrays, {"stop": "\n", "presence_penalty": 1, "id": "7"}))
    assert (request.params.max_tokens, request.params.presence_penalty) == (5, 1.0)
    assert request.has_stop_strings


@pytest.mark.parametrize("key", ["lora_name", "guided_decoding", "structured_outputs", "response_format"])
def test_what_the_frontend_may_send_and_this_backend_has_not_is_refused_by_name(host: FrontHost, key: str) -> None:
    assert repr(key) in host.refusal("Once upon", {**CHAT_DEFAULTS, key: "x"})
