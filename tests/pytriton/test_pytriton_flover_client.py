"""The client package at a PyTriton program: FINAL comes as a response of its own, codes at the texts' beginnings."""

from __future__ import annotations

import asyncio

import pytest
from pytriton_host import Host

from flover_client import AsyncClient, Client, InvalidArgument, Response

PROMPT = "In the beginning"


def test_generate_and_stream(host: Host) -> None:
    with Client(host.grpc_url, timeout_s=60) as client:
        whole = client.generate(PROMPT, max_tokens=20, temperature=0, n=2, logprobs=1)
        assert (whole.finish_reason, whole.is_final) == ("length", True)
        assert [len(output.token_ids) for output in whole.outputs] == [20, 20]
        assert len(whole.logprobs) == 20
        responses = list(client.stream(PROMPT, max_tokens=20, temperature=0))
        assert "".join(response.text for response in responses) == whole.text
        assert responses[-1].finish_reason == "length"
        assert client.generate([5, 6], max_tokens=3, ignore_eos=True).num_input_tokens == 2


def test_asyncio(host: Host) -> None:
    async def ask() -> list[Response]:
        async with AsyncClient(host.grpc_url, timeout_s=60) as client:
            calls = [client.generate(PROMPT, max_tokens=5, temperature=0) for _ in range(4)]
            return await asyncio.gather(*calls)

    assert len({answer.text for answer in asyncio.run(ask())}) == 1


def test_an_error_has_its_code(host: Host) -> None:
    with Client(host.grpc_url, timeout_s=60) as client, pytest.raises(InvalidArgument, match="max_tokens: got 0") as it:
        client.generate(PROMPT, max_tokens=0)
    assert it.value.code == "INVALID_ARG"
