"""A GPT-J through a real server: the bundled one by its name, and one laid out as the published checkpoint is."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from live_server import LiveServer, StartServer
from test_live_fusion import differing, make_cases, start
from tokenizers import Tokenizer
from triton_client import Call, arrays_of, ask, ids_of, text_of

from flover_backend.bundled import path_of
from tests.models.published_gptj import write as write_published

DEMO = path_of("gptj-demo")
PROMPT = "And God said"
GREEDY = {"temperature": 0, "max_tokens": 24}
PADDED_VOCAB = 1600


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(DEMO / "tokenizer.json"))


@pytest.fixture(scope="module")
def gptj_server(start_server: StartServer) -> Iterator[LiveServer]:
    server = start_server({"model": "gptj-demo"}, instances=2)
    server.wait_ready()
    yield server
    server.stop()


def reference_ids(prompt: list[int], count: int) -> list[int]:
    """transformers' greedy tokens."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32).eval()
    settings = {"max_new_tokens": count, "do_sample": False, "pad_token_id": 1}
    return model.generate(torch.tensor([prompt]), **settings)[0, len(prompt) :].tolist()


def test_the_bundled_gptj_answers_as_transformers_does(gptj_server: LiveServer, tokenizer: Tokenizer) -> None:
    stream = ask(gptj_server.grpc_url, PROMPT, GREEDY, stream=True)
    expected = reference_ids(tokenizer.encode(PROMPT).ids, 24)
    assert ids_of(stream) == expected
    (whole,) = ask(gptj_server.grpc_url, PROMPT, GREEDY, exclude_input_in_output=True)
    assert text_of(stream) == whole.outputs["text_output"][0] == tokenizer.decode(expected).encode()


def test_fused_streams_have_the_tokens_they_have_alone(gptj_server: LiveServer) -> None:
    cases = make_cases(random.Random(11))[:12]
    alone = [start(gptj_server, case).rest() for case in cases]
    calls = [start(gptj_server, case) for case in cases]
    assert differing(cases, alone, [call.rest() for call in calls]) == []


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Callable[[float, bool], Path]:
    """(bias of the ids that pad the vocabulary, with tokenizer) -> the bundled GPT-J laid out as the published one."""

    def make(pad_bias: float, with_tokenizer: bool) -> Path:
        target = tmp_path_factory.mktemp("published") / "gptj"
        write_published(DEMO, target, torch.float16, PADDED_VOCAB, pad_bias)
        if with_tokenizer:
            shutil.copy(DEMO / "tokenizer.json", target)
        return target

    return make


@pytest.mark.slow
def test_the_published_layout_answers_the_same(
    start_server: StartServer, gptj_server: LiveServer, published: Callable[[float, bool], Path]
) -> None:
    server = start_server({"model": str(published(-1e4, True))})
    server.wait_ready()
    of_both = [ids_of(ask(url, PROMPT, GREEDY)) for url in (server.grpc_url, gptj_server.grpc_url)]
    assert of_both[0] == of_both[1] and len(of_both[0]) == 24
    assert len(ids_of(ask(server.grpc_url, [PADDED_VOCAB - 1, 5], GREEDY))) > 0
    (refused,) = ask(server.grpc_url, [PADDED_VOCAB], GREEDY)
    assert f"token id {PADDED_VOCAB}" in refused.error
    server.stop()


@pytest.mark.slow
def test_ids_that_no_tokenizer_knows_are_no_text(
    start_server: StartServer, published: Callable[[float, bool], Path]
) -> None:
    """Every token sampled is one that pads the vocabulary."""
    server = start_server({"model": str(published(1e4, True))})
    server.wait_ready()
    asked = {"temperature": 1.0, "max_tokens": 8, "logprobs": 2, "stop": ["x"]}
    for more in ({"exclude_input_in_output": True}, {"stream": True}):
        answers = ask(server.grpc_url, PROMPT, asked, return_logprobs=True, **more)
        ids = ids_of(answers)
        assert len(ids) == 8 and all(1536 <= token < PADDED_VOCAB for token in ids)
        assert text_of(answers) == b""
        entries = [entry for answer in answers for entry in json.loads(answer.outputs["logprobs"][0])]
        assert [entry[str(token)]["decoded_token"] for entry, token in zip(entries, ids, strict=True)] == [""] * 8
    server.stop()


@pytest.mark.slow
def test_without_a_tokenizer_ids_go_in_and_out(
    start_server: StartServer, gptj_server: LiveServer, published: Callable[[float, bool], Path]
) -> None:
    server = start_server({"model": str(published(-1e4, False))})
    server.wait_ready()
    prompt = [20, 30, 40]
    answers = Call(server.grpc_url, arrays_of(prompt, GREEDY, stream=True)).rest()
    assert ids_of(answers) == ids_of(ask(gptj_server.grpc_url, prompt, GREEDY))
    assert all("text_output" not in answer.outputs for answer in answers)
    (refused,) = ask(server.grpc_url, PROMPT, GREEDY)
    assert "text_input" in refused.error and "no tokenizer" in refused.error
    server.stop()
