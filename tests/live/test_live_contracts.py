"""Requests as other people's clients send them, over the wire: Triton's OpenAI frontend, genai-perf, perf_analyzer.

tests/front/test_front_contracts.py has more shapes, without a server; these show that Triton lets them through.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from live_server import LiveServer
from triton_client import Call, arrays_of, ask, ids_of, post

CHAT = {
    "frequency_penalty": 0.0,
    "ignore_eos": False,
    "logprobs": False,
    "n": 1,
    "presence_penalty": 0.0,
    "temperature": 0.7,
    "top_p": 1.0,
    "max_tokens": 16,
}
COMPLETION = {
    "best_of": 1,
    "frequency_penalty": 0.0,
    "ignore_eos": False,
    "n": 1,
    "presence_penalty": 0.0,
    "temperature": 1.0,
    "top_p": 1.0,
    "max_tokens": 16,
}
FRONTEND = {
    "chat": CHAT,
    "completion": COMPLETION,
    "chat with top_logprobs": {**CHAT, "logprobs": True, "top_logprobs": 5},
    "chat with seed and stop": {**CHAT, "seed": -9223372036854775808, "stop": ["\n", "END"], "min_tokens": 1},
    "chat with logit_bias": {**CHAT, "logit_bias": {"50": -100}, "stop": "xyz"},
    "completion with logprobs": {**COMPLETION, "logprobs": 5},
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("sampling", FRONTEND.values(), ids=FRONTEND)
def test_the_openai_frontend(server: LiveServer, sampling: dict[str, Any], stream: bool) -> None:
    answers = ask(
        server.grpc_url,
        "Once upon a time",
        sampling,
        stream=stream,
        exclude_input_in_output=True,
        return_num_input_tokens=True,
        return_num_output_tokens=True,
    )
    assert not answers[-1].error
    assert sum(int(answer.outputs["num_output_tokens"][0]) for answer in answers) == len(ids_of(answers)) <= 16
    assert len({int(answer.outputs["num_input_tokens"][0]) for answer in answers}) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_genai_perf(server: LiveServer, stream: bool) -> None:
    sampling = {"max_tokens": "20", "min_tokens": "20"}
    more = {"stream": True} if stream else {}
    answers = ask(server.grpc_url, "Once upon a time", sampling, exclude_input_in_output=True, **more)
    assert len(ids_of(answers)) == 20
    # One response a token and none without: genai-perf takes each response's time for a token's.
    assert all(answer.outputs["output_ids"].size for answer in answers)


def test_perf_analyzer(server: LiveServer) -> None:
    arrays = arrays_of([5, 6, 7], stream=True, ignore_eos=True, max_tokens=np.int32(20), temperature=np.float32(0))
    assert len(ids_of(Call(server.grpc_url, arrays).rest())) == 20


def test_the_vllm_backends_sample_client(server: LiveServer) -> None:
    """It sends its parameters twice, all values strings."""
    sampling = {"temperature": "0.1", "top_p": "0.95", "max_tokens": "100"}
    call = Call(
        server.grpc_url,
        arrays_of("Once upon a time", sampling, stream=False),
        parameters=sampling,
        outputs=None,
        request_id="7",
    )
    (answer,) = call.rest()
    assert answer.outputs["text_output"][0].startswith(b"Once upon a time")


def test_curl_on_generate(server: LiveServer) -> None:
    body = {"text_input": "Once upon a time", "max_tokens": 8, "stop": "xyz", "presence_penalty": 1, "id": "42"}
    status, text = post(f"{server.http_url}/v2/models/flover/generate", body)
    assert status == 200
    assert json.loads(text)["text_output"].startswith("Once upon a time")


def test_triton_reports_the_declared_tensors(server: LiveServer) -> None:
    import tritonclient.grpc as grpcclient

    config = grpcclient.InferenceServerClient(server.grpc_url).get_model_config("flover").config
    assert config.model_transaction_policy.decoupled
    assert config.max_batch_size == 0
    assert [output.name for output in config.output][:2] == ["text_output", "output_ids"]
    assert all(entry.optional for entry in config.input)
    assert "stop" not in [entry.name for entry in config.input]
