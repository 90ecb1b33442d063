"""What clients get of a model that is bound in a PyTriton program: the same answers as of the plain engine."""

from __future__ import annotations

import os
import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from live_server import live_servers
from pytriton.client import DecoupledModelClient
from pytriton_host import Host, contents
from triton_client import ask, ids_of, text_of

from flover_backend.bundled import path_of
from flover_backend.channel import Metrics, Status
from flover_backend.config import ModelJson
from flover_backend.front.client import EngineClient
from flover_backend.front.engine_news import TokenLogprob
from flover_backend.front.tokenizer import Tokenizer
from flover_backend.request import FinishReason, Request, SamplingParams

PROMPT = "In the beginning"
PROMPTS = [PROMPT, "And it came to pass", "The king said", "Blessed are", "Behold", "Who art thou", "Then", "O ye"] * 2


class PlainFront:
    """A second front of the same engine, with nothing of PyTriton between."""

    def __init__(self) -> None:
        config = ModelJson(max_rows=16)
        connect = EngineClient.connect
        self._news: queue.Queue[tuple[list[int], FinishReason]] = queue.Queue()
        self._tokenizer = Tokenizer(path_of("llama-demo") / "tokenizer.json")
        self._client = connect(config, path_of("llama-demo"), "flover", "1", os.getpid(), "plain", log=print)
        self._client.start(self)

    def tokens(self, prompt: str, **params: Any) -> list[int]:
        ids = self._tokenizer.encode(prompt)
        request = Request(
            key=self._client.next_key(), prompt_ids=ids, params=SamplingParams(**params), arrival_time=0.0
        )
        self._client.submit(request)
        tokens, finish = self._news.get(timeout=60)
        while finish == FinishReason.NONE:
            more, finish = self._news.get(timeout=60)
            tokens = tokens + more
        return tokens

    def close(self) -> None:
        self._client.close()

    def on_started(self, key: int, queue_seconds: float) -> None:
        pass

    def on_tokens(
        self, key: int, index: int, token_ids: list[int], finish: FinishReason, logprobs: list[TokenLogprob] | None
    ) -> None:
        self._news.put((token_ids, finish))

    def on_ended(self, key: int, code: str, message: str, reason: str) -> None:
        raise AssertionError(message)

    def on_status(self, status: Status) -> None:
        pass

    def on_drain(self) -> None:
        pass

    def on_leader(self, acknowledged: Metrics | None) -> None:
        pass

    def on_metrics(self, metrics: Metrics) -> None:
        pass

    def on_failed(self, message: str) -> None:
        pass


@pytest.fixture(scope="module")
def plain(host: Host) -> Iterator[PlainFront]:
    front = PlainFront()
    yield front
    front.close()


@pytest.mark.parametrize("temperature", [0, 0.8])
def test_a_stream_is_the_plain_engines_answer(host: Host, plain: PlainFront, temperature: float) -> None:
    expected = plain.tokens(PROMPT, max_tokens=200, temperature=temperature, seed=5, ignore_eos=True)
    parameters = {"max_tokens": 200, "temperature": temperature, "seed": 5, "ignore_eos": True}
    streamed = contents(ask(host.grpc_url, PROMPT, parameters, stream=True, return_finish_reason=True))
    assert ids_of(streamed) == expected
    assert len(streamed) < len(expected), "nothing was coalesced"
    assert [answer.outputs["finish_reason"].tolist() for answer in streamed[-2:]] == [[b"None"], [b"length"]]
    (whole,) = contents(ask(host.grpc_url, PROMPT, parameters, exclude_input_in_output=True))
    assert whole.outputs["output_ids"].tolist() == expected
    assert whole.outputs["text_output"][0] == text_of(streamed)


def test_users_at_once_are_fused(host: Host) -> None:
    parameters = {"max_tokens": 60, "temperature": 0, "ignore_eos": True}
    alone = [ids_of(contents(ask(host.grpc_url, prompt, parameters, stream=True))) for prompt in PROMPTS[:8]]
    before = host.wait_idle()
    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        asked = [pool.submit(ask, host.grpc_url, prompt, parameters, stream=True) for prompt in PROMPTS]
        together = [ids_of(contents(one.result())) for one in asked]
    after = host.wait_idle()
    assert together == alone * 2
    rows, iterations = (
        after[f"flover_iteration_rows_{x}"] - before[f"flover_iteration_rows_{x}"] for x in ("sum", "count")
    )
    assert rows / iterations > 2
    assert after["flover_decode_tokens_total"] - before["flover_decode_tokens_total"] == 960


def test_pytritons_own_client(host: Host) -> None:
    with DecoupledModelClient(f"grpc://{host.grpc_url}", "flover") as client:
        inputs = {"text_input": np.array([PROMPT.encode()]), "max_tokens": np.array([40], np.int32)}
        inputs |= {"temperature": np.array([0], np.float32)}
        responses = list(client.infer_sample(stream=np.array([True]), **inputs))
        (whole,) = client.infer_sample(exclude_input_in_output=np.array([True]), **inputs)
    ids = [token for response in responses for token in response["output_ids"]]
    assert ids == whole["output_ids"].tolist() and len(ids) == 40
    assert b"".join(response["text_output"][0] for response in responses) == whole["text_output"][0]


REQUESTS: list[dict[str, Any]] = [
    {"prompt": PROMPT, "parameters": {"max_tokens": 50, "seed": 3}},
    {"prompt": PROMPT, "parameters": {"max_tokens": 50, "seed": 3, "n": 3, "temperature": 1.5, "top_p": 0.9}},
    {"prompt": PROMPT, "parameters": {"max_tokens": 100, "seed": 8, "stop": [",", "and"]}},
    {"prompt": [5, 6, 7], "parameters": {"max_tokens": 20, "temperature": 0, "logprobs": 3, "min_tokens": 20}},
    {"prompt": PROMPT, "parameters": {"max_tokens": 30, "seed": -1, "repetition_penalty": 1.3, "min_p": 0.1}},
]


@pytest.mark.slow
def test_every_output_is_a_triton_servers_own(host: Host, tmp_path_factory: pytest.TempPathFactory) -> None:
    names = ("finish_reason", "cumulative_logprob", "logprobs", "num_input_tokens", "num_output_tokens")
    more = {f"return_{name}": True for name in names}
    with live_servers(tmp_path_factory.mktemp) as start:
        server = start({"max_rows": 16}, instances=1)
        server.wait_ready()
        for request in REQUESTS:
            (expected,) = ask(server.grpc_url, **request, **more)
            (found,) = contents(ask(host.grpc_url, **request, **more))
            assert {name: array.tolist() for name, array in found.outputs.items()} == {
                name: array.tolist() for name, array in expected.outputs.items()
            }
