"""What a live server answers, through both clients."""

from __future__ import annotations

import asyncio

import pytest
from live_server import LiveServer
from triton_client import ask, ids_of, text_of

from flover_client import AsyncClient, ChatTemplate, Client, Response, TemplateError

PROMPT = "And God said"
TEMPLATE = ChatTemplate("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}God:")
MESSAGES = [{"role": "user", "content": "Who art thou?"}]


def add_up(responses: list[Response]) -> tuple[str, tuple[int, ...]]:
    ids = tuple(token_id for response in responses for token_id in response.token_ids)
    return "".join(response.text for response in responses), ids


def test_generate_is_what_the_server_says(server: LiveServer, client: Client) -> None:
    answers = ask(server.grpc_url, PROMPT, {"temperature": 0, "max_tokens": 24}, exclude_input_in_output=True)
    answer = client.generate(PROMPT, temperature=0, max_tokens=24)
    assert (answer.text.encode(), list(answer.token_ids)) == (text_of(answers), ids_of(answers))
    assert (answer.finish_reason, answer.is_final, answer.num_input_tokens) == ("length", True, 4)
    assert answer.logprobs == ()
    assert answer.outputs[0].cumulative_logprob is None


def test_a_stream_adds_up_to_generate(client: Client) -> None:
    whole = client.generate(PROMPT, temperature=0, max_tokens=24)
    responses = list(client.stream(PROMPT, temperature=0, max_tokens=24))
    assert len(responses) > 1
    assert add_up(responses) == (whole.text, whole.token_ids)
    assert [response.is_final for response in responses] == [False] * (len(responses) - 1) + [True]
    assert [response.finish_reason for response in responses] == [None] * (len(responses) - 1) + ["length"]


def test_asyncio_answers_the_same(server: LiveServer, client: Client) -> None:
    async def both() -> tuple[Response, list[Response], bool]:
        async with AsyncClient(server.grpc_url) as other:
            whole = await other.generate(PROMPT, temperature=0, max_tokens=24)
            stream = other.stream(PROMPT, temperature=0, max_tokens=24)
            return whole, [response async for response in stream], await other.is_ready()

    whole, responses, is_ready = asyncio.run(both())
    assert whole == client.generate(PROMPT, temperature=0, max_tokens=24)
    assert add_up(responses) == (whole.text, whole.token_ids)
    assert is_ready


def test_token_ids_as_prompt(server: LiveServer, client: Client) -> None:
    parameters = {"temperature": 0, "max_tokens": 7, "ignore_eos": True}
    answer = client.generate([5, 6, 7], temperature=0, max_tokens=7, ignore_eos=True)
    assert list(answer.token_ids) == ids_of(ask(server.grpc_url, [5, 6, 7], parameters))
    assert answer.num_input_tokens == 3


def test_several_sequences(client: Client) -> None:
    whole = client.generate(PROMPT, n=3, seed=5, max_tokens=12)
    assert len({output.token_ids for output in whole.outputs}) == 3
    responses = list(client.stream(PROMPT, n=3, seed=5, max_tokens=12))
    for index, output in enumerate(whole.outputs):
        parts = [response.outputs[index] for response in responses]
        assert "".join(part.text for part in parts) == output.text
        assert tuple(token_id for part in parts for token_id in part.token_ids) == output.token_ids


def test_logprobs(client: Client) -> None:
    answer = client.generate(PROMPT, temperature=0, max_tokens=5, ignore_eos=True, logprobs=3)
    assert [len(candidates) for candidates in answer.logprobs] == [3] * 5
    chosen = [candidates[token_id] for candidates, token_id in zip(answer.logprobs, answer.token_ids, strict=True)]
    assert [entry.rank for entry in chosen] == [1] * 5
    assert "".join(entry.token or "" for entry in chosen) == answer.text
    assert answer.outputs[0].cumulative_logprob == pytest.approx(sum(entry.logprob for entry in chosen), rel=1e-4)
    (only,) = client.generate(PROMPT, max_tokens=1, ignore_eos=True, logprobs=0).logprobs
    assert len(only) == 1


def test_every_parameter_reaches_the_server(client: Client) -> None:
    free = client.generate(PROMPT, temperature=0, max_tokens=20, ignore_eos=True)
    parts = client.generate(
        PROMPT,
        max_tokens=20,
        min_tokens=2,
        temperature=0.5,
        top_k=1,
        top_p=0.9,
        min_p=0.1,
        repetition_penalty=1.0,
        presence_penalty=0.0,
        frequency_penalty=0.0,
        seed=2**64 - 1,
        stop=["no such text"],
        stop_token_ids=[free.token_ids[9]],
        ignore_eos=True,
        n=1,
        best_of=1,
        logit_bias={3: -100.0},
        deadline_ms=60_000,
    )
    assert parts.finish_reason == "stop"
    assert parts.token_ids == free.token_ids[: len(parts.token_ids)]
    assert parts.token_ids[-1] == free.token_ids[9]


def test_a_chat_is_its_rendered_prompt(server: LiveServer, client: Client) -> None:
    expected = client.generate("user: Who art thou?\nGod:", temperature=0, max_tokens=12)
    assert client.chat(MESSAGES, TEMPLATE, temperature=0, max_tokens=12) == expected
    assert add_up(list(client.chat_stream(MESSAGES, TEMPLATE, temperature=0, max_tokens=12)))[0] == expected.text

    async def both() -> tuple[Response, list[Response]]:
        async with AsyncClient(server.grpc_url) as other:
            whole = await other.chat(MESSAGES, TEMPLATE, temperature=0, max_tokens=12)
            return whole, [r async for r in other.chat_stream(MESSAGES, TEMPLATE, temperature=0, max_tokens=12)]

    whole, responses = asyncio.run(both())
    assert whole == expected
    assert add_up(responses)[1] == expected.token_ids


def test_a_chat_that_its_template_refuses(client: Client) -> None:
    with pytest.raises(TemplateError, match="roles must alternate"):
        client.chat(MESSAGES, ChatTemplate("{{ raise_exception('roles must alternate') }}"))


def test_threads_share_a_client(client: Client) -> None:
    from concurrent.futures import ThreadPoolExecutor

    expected = client.generate([5, 6, 7], temperature=0, max_tokens=16).token_ids
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: client.generate([5, 6, 7], temperature=0, max_tokens=16), range(16)))
    assert {result.token_ids for result in results} == {expected}
