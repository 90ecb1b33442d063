"""A live server's errors as exceptions, with its text and code; a server that is not there."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from live_metrics import wait_idle, wait_running
from live_server import LiveServer, free_ports
from tritonclient.grpc import service_pb2_grpc

from flover_client import (
    AsyncClient,
    Client,
    ConnectionFailed,
    InvalidArgument,
    NotFound,
    RequestFailed,
    Unavailable,
)
from flover_client.protocol import build_request, parse_response

ERRORS: dict[str, tuple[Any, dict[str, Any], type[RequestFailed], str, str]] = {
    "value": ("x", {"max_tokens": 0}, InvalidArgument, "INVALID_ARG", "max_tokens: got 0"),
    "name": ("x", {"temprature": 1}, InvalidArgument, "INVALID_ARG", "unknown name 'temprature'"),
    "beam": ("x", {"beam_width": 2}, InvalidArgument, "INVALID_ARG", "beam_width: beam search is not supported"),
    "stop": ("x", {"stop": [""]}, InvalidArgument, "INVALID_ARG", "stop: got"),
    "empty text": ("", {}, InvalidArgument, "INVALID_ARG", "text_input: the prompt is empty"),
    "no ids": ([], {}, InvalidArgument, "INVALID_ARG", "input_ids: "),
    "id": ([99_999], {}, InvalidArgument, "INVALID_ARG", "input_ids: token id 99999"),
    "length": ([5] * 5000, {}, InvalidArgument, "INVALID_ARG", "input_ids: 5000 prompt tokens"),
    "rows": ("x", {"n": 9}, InvalidArgument, "INVALID_ARG", "n: got 9"),
    "nan": ("x", {"temperature": float("nan")}, InvalidArgument, "INVALID_ARG", "temperature: got nan"),
}


@pytest.mark.parametrize(("prompt", "parameters", "kind", "code", "said"), ERRORS.values(), ids=ERRORS)
def test_refused(
    server: LiveServer, client: Client, prompt: Any, parameters: Any, kind: type[RequestFailed], code: str, said: str
) -> None:
    async def refused() -> None:
        async with AsyncClient(server.grpc_url) as other:
            await other.generate(prompt, **parameters)

    for call in (
        lambda: client.generate(prompt, **parameters),
        lambda: list(client.stream(prompt, **parameters)),
        lambda: asyncio.run(refused()),
    ):
        with pytest.raises(kind) as caught:
            call()
        assert caught.value.code == code
        assert str(caught.value).startswith(said)
    assert client.generate([5], max_tokens=2, ignore_eos=True).finish_reason == "length"


def test_an_iterator_that_raised_has_ended(client: Client) -> None:
    stream = client.stream("")
    with pytest.raises(InvalidArgument):
        next(stream)
    assert list(stream) == []


@pytest.mark.parametrize("ids", [[2**31], [1.5], [-(2**31) - 1]])
def test_ids_that_are_none(client: Client, ids: Any) -> None:
    with pytest.raises(ValueError, match="prompt: token ids are 32-bit integers"):
        client.generate(ids)


@pytest.mark.parametrize("prompt", [b"In the", bytearray(b"x"), None, 7])
def test_a_prompt_that_is_neither_text_nor_ids(client: Client, prompt: Any) -> None:
    with pytest.raises(TypeError, match=f"prompt: got {type(prompt).__name__}; allowed: text as str"):
        client.generate(prompt)


def test_a_model_that_is_not_there(server: LiveServer) -> None:
    with Client(server.grpc_url, "nope") as client:
        assert not client.is_ready()
        with pytest.raises(NotFound, match="'nope' is not found") as caught:
            client.generate("x")
        assert caught.value.code == "NOT_FOUND"


def test_full_rows_and_a_full_queue(server: LiveServer, client: Client) -> None:
    wait_idle(server)
    streams = [client.stream([5], max_tokens=1900, ignore_eos=True) for _ in range(8)]
    for stream in streams:
        next(stream)
    with pytest.raises(Unavailable, match="deadline_ms passed before the first token") as caught:
        client.generate([5], deadline_ms=50)
    assert caught.value.code == "UNAVAILABLE"
    streams += [client.stream([5], max_tokens=1900, ignore_eos=True) for _ in range(16)]
    wait_running(server, 8, waiting=16)
    with pytest.raises(Unavailable, match="the queue is full: 16 requests") as caught:
        client.generate([5])
    assert caught.value.code == "UNAVAILABLE"
    for stream in streams:
        stream.close()
    wait_idle(server)


def test_no_server() -> None:
    (port,) = free_ports(1)
    url = f"127.0.0.1:{port}"

    async def nobody() -> None:
        async with AsyncClient(url) as client:
            assert not await client.is_ready()
            await client.generate("x")

    def nobody_sync() -> None:
        with Client(url) as client:
            assert not client.is_ready()
            client.generate("x")

    for call in (nobody_sync, lambda: asyncio.run(nobody())):
        with pytest.raises(ConnectionFailed, match=f"no server answers at {url}") as caught:
            call()
        assert caught.value.code == "UNAVAILABLE"
        assert isinstance(caught.value, ConnectionError)


TENSORS: dict[str, tuple[str, str, list[int], bytes]] = {
    "type": ("max_tokens", "INT64", [1], bytes(8)),
    "shape": ("max_tokens", "INT32", [2], bytes(8)),
    "name": ("surplus", "INT32", [1], bytes(4)),
}


@pytest.mark.parametrize(("name", "datatype", "shape", "raw"), TENSORS.values(), ids=TENSORS)
def test_a_tensor_that_triton_refuses(
    server: LiveServer, name: str, datatype: str, shape: list[int], raw: bytes
) -> None:
    """No client of this package sends such a one; the text of this Triton still has its code."""
    request = build_request("flover", "", [5], stream=False, request_id="7", parameters={})
    request.inputs.add(name=name, datatype=datatype, shape=shape)
    request.raw_input_contents.append(raw)
    with grpc.insecure_channel(server.grpc_url) as channel:
        (message,) = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(iter([request]))
    with pytest.raises(InvalidArgument, match=name):
        parse_response(message)


def test_a_version(server: LiveServer) -> None:
    with Client(server.grpc_url, version="1") as client:
        assert client.is_ready()
        assert client.generate([5], max_tokens=2, ignore_eos=True).is_final
    with Client(server.grpc_url, version="7") as client:
        assert not client.is_ready()
        with pytest.raises(NotFound, match="'flover' version 7 is not found"):
            client.generate([5])
    with Client(server.grpc_url, version="latest") as client, pytest.raises(InvalidArgument, match="'latest'"):
        client.generate([5])


@pytest.mark.parametrize("prompt", ["x" * 9_000_000, [5] * 3_000_000], ids=["text", "ids"])
def test_a_prompt_beyond_grpcs_own_limit(client: Client, prompt: Any) -> None:
    """gRPC refuses messages above 4 MB unless told otherwise; here the model's limit counts."""
    with pytest.raises(InvalidArgument, match=r"text_input|input_ids"):
        client.generate(prompt)


def test_tritons_http_port(server: LiveServer) -> None:
    with Client(f"127.0.0.1:{server.http_port}", timeout_s=30) as client, pytest.raises(ConnectionFailed):
        client.generate("x")
