"""Servers that behave otherwise than ours does today, played by a bare gRPC server; and texts to codes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from flover_client import AsyncClient, Client, ConnectionFailed, Internal, InvalidArgument, RequestFailed, Response
from flover_client.errors import CLASSES, RequestTimeout, error_of_text
from flover_client.protocol import Progress


def content(text: str, *, final: bool = False) -> Any:
    """A response of one sequence and one token."""
    response = service_pb2.ModelInferResponse(model_name="flover")
    raw = text.encode()
    values = {
        "text_output": ("BYTES", len(raw).to_bytes(4, "little") + raw),
        "output_ids": ("INT32", (7).to_bytes(4, "little")),
        "finish_reason": ("BYTES", b"\x04\0\0\0None"),
        "num_input_tokens": ("UINT32", (3).to_bytes(4, "little")),
        "num_output_tokens": ("UINT32", (1).to_bytes(4, "little")),
    }
    for name, (datatype, value) in values.items():
        response.outputs.add(name=name, datatype=datatype, shape=[1])
        response.raw_output_contents.append(value)
    response.parameters["triton_final_response"].bool_param = final
    return service_pb2.ModelStreamInferResponse(infer_response=response)


def empty_final() -> Any:
    message = service_pb2.ModelStreamInferResponse()
    message.infer_response.parameters["triton_final_response"].bool_param = True
    return message


class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    def __init__(self) -> None:
        self.messages: Iterable[Any] = ()
        self.status: tuple[grpc.StatusCode, str] | None = None
        self.was_read_to_its_end = False

    def ModelStreamInfer(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:
        assert len(list(requests)) == 1  # and the client's side is closed
        yield from self.messages
        self.was_read_to_its_end = True
        if self.status is not None:
            context.abort(*self.status)


@pytest.fixture
def played() -> Iterator[tuple[str, Servicer]]:
    servicer = Servicer()
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}", servicer
        server.stop(None).wait()


def read_sync(url: str) -> list[Response]:
    with Client(url) as client:
        return list(client.stream("x"))


def read_async(url: str) -> list[Response]:
    async def read() -> list[Response]:
        async with AsyncClient(url) as client:
            return [response async for response in client.stream("x")]

    return asyncio.run(read())


BOTH = pytest.mark.parametrize("read", [read_sync, read_async])


@BOTH
def test_a_final_response_of_its_own(played: tuple[str, Servicer], read: Any) -> None:
    url, servicer = played
    servicer.messages = [content("a"), content("b"), empty_final()]
    assert [response.text for response in read(url)] == ["a", "b"]


def generate_sync(url: str) -> Response:
    with Client(url) as client:
        return client.generate("x")


def generate_async(url: str) -> Response:
    async def ask() -> Response:
        async with AsyncClient(url) as client:
            return await client.generate("x")

    return asyncio.run(ask())


@pytest.mark.parametrize("ask", [generate_sync, generate_async])
def test_a_generate_with_a_final_response_of_its_own(played: tuple[str, Servicer], ask: Any) -> None:
    """It is read too: Triton 24.10 keeps a stream that is cancelled just then."""
    url, servicer = played

    def messages() -> Iterator[Any]:
        yield content("a")
        time.sleep(0.3)  # a client that cancels does so now
        yield empty_final()

    servicer.messages = messages()
    answer = ask(url)
    assert (answer.text, answer.is_final, servicer.was_read_to_its_end) == ("a", True, True)


@BOTH
@pytest.mark.parametrize("messages", [[], [content("a")], [empty_final()]], ids=["nothing", "a part", "an empty final"])
def test_a_stream_that_ends_early(played: tuple[str, Servicer], read: Any, messages: list[Any]) -> None:
    url, servicer = played
    servicer.messages = messages
    with pytest.raises(RequestFailed, match="before the answer was complete"):
        read(url)


@BOTH
def test_a_generate_without_an_answer(played: tuple[str, Servicer], read: Any) -> None:
    url, servicer = played
    servicer.messages = [empty_final()]
    with Client(url) as client, pytest.raises(RequestFailed, match="before the answer was complete"):
        client.generate("x")


@BOTH
def test_a_connection_that_breaks(played: tuple[str, Servicer], read: Any) -> None:
    url, servicer = played
    servicer.messages, servicer.status = [content("a")], (grpc.StatusCode.UNAVAILABLE, "Socket closed")
    with pytest.raises(ConnectionFailed, match=f"the connection to {url} broke .Socket closed"):
        read(url)


@BOTH
def test_an_error_as_a_status(played: tuple[str, Servicer], read: Any) -> None:
    url, servicer = played
    servicer.status = (grpc.StatusCode.INVALID_ARGUMENT, "max_tokens: got 0")
    with pytest.raises(InvalidArgument, match="max_tokens: got 0") as caught:
        read(url)
    assert caught.value.code == "INVALID_ARG"
    servicer.status = (grpc.StatusCode.INTERNAL, "it broke")
    with pytest.raises(Internal, match="it broke"):
        read(url)


def test_a_deadline_that_passes_while_sending() -> None:
    """grpc.aio has another name for it."""
    error = grpc.aio.AioRpcError(
        grpc.StatusCode.INTERNAL, grpc.aio.Metadata(), grpc.aio.Metadata(), "Internal error from Core"
    )
    in_time, late = Progress("host:1", 60.0), Progress("host:1", 0.0)
    assert type(in_time.break_off(error)) is Internal
    assert type(late.break_off(error)) is RequestTimeout


@pytest.mark.parametrize("code", ["INVALID_ARG", "UNAVAILABLE", "NOT_FOUND", "CANCELLED", "INTERNAL"])
def test_the_code_at_the_end_of_a_text(code: str) -> None:
    error = error_of_text(f"stop: got '[INTERNAL]'; allowed: [UNKNOWN] [{code}]")
    assert (error.code, type(error)) == (code, CLASSES[code])
    assert str(error).endswith(f"[{code}]")


def test_the_code_at_the_beginning_of_a_text() -> None:
    """As a PyTriton program says it."""
    error = error_of_text("UNAVAILABLE: the queue is full: 4 requests")
    assert (error.code, type(error)) == ("UNAVAILABLE", CLASSES["UNAVAILABLE"])
    assert error_of_text("INVALID: no").code == "INVALID"


def test_a_code_without_a_class() -> None:
    error = error_of_text("it is there already [ALREADY_EXISTS]")
    assert (error.code, type(error)) == ("ALREADY_EXISTS", RequestFailed)


TRITONS = {
    "Request for unknown model: 'a b' is not found": "NOT_FOUND",
    "Request for unknown model: 'flover' version 7 is not found": "NOT_FOUND",
    "Request for unknown model: 'flover' has no available versions": "UNAVAILABLE",
    "Request for unknown model: 'flover' version 1 is not at ready state": "UNAVAILABLE",
    "[request id: 7] unexpected shape for input 'top_k' for model 'flover'. Expected [1], got [2]. ": "INVALID_ARG",
    "Failed to process the request(s) for model instance 'flover_0_0', message: Stub process ...": "INTERNAL",
}


@pytest.mark.parametrize(("text", "code"), TRITONS.items())
def test_a_text_of_tritons(text: str, code: str) -> None:
    """What a healthy server says is in test_client_errors.py, from the server itself."""
    assert error_of_text(text).code == code


def test_a_text_that_nobody_knows() -> None:
    error = error_of_text("something else happened")
    assert (type(error), error.code, str(error)) == (RequestFailed, "UNKNOWN", "something else happened")


def test_an_asyncio_client_outside_of_a_loop_says_where_to_make_it() -> None:
    with pytest.raises(RuntimeError, match="make it inside a coroutine"):
        AsyncClient("127.0.0.1:1")
