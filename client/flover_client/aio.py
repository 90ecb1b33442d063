"""The asyncio client: a gRPC channel, and a stream of its own for each request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Any, Unpack

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from flover_client.chat import ChatTemplate
from flover_client.connection import KEEPALIVE_S, Tls, channel_arguments, metadata
from flover_client.protocol import Progress, build_request, is_over
from flover_client.types import Message, Parameters, Prompt, Response


class AsyncStream(AsyncIterator[Response]):
    """The responses to one request, as they come. Closing it, dropping it, or cancelling the task that waits for it
    cancels what is still to come.

    Iterating raises `RequestFailed`. An async context manager.
    """

    def __init__(self, call: Any, progress: Progress) -> None:
        self._call = call
        self._progress = progress
        self._is_closed = False

    async def __aenter__(self) -> AsyncStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def __anext__(self) -> Response:
        while not (self._is_closed or self._progress.is_over):
            try:
                message = await self._call.read()
            except grpc.RpcError as error:
                raise self._progress.break_off(error) from None
            except asyncio.CancelledError:
                if self._is_closed:
                    break
                self._call.cancel()
                raise
            if message is not grpc.aio.EOF and is_over(message):
                await self._read_to_end()
            response = self._progress.take(None if message is grpc.aio.EOF else message)
            if response is not None:
                return response
        raise StopAsyncIteration

    async def _read_to_end(self) -> None:
        # NOTE: Triton 24.10 keeps a stream for ever, and cannot stop, when it is cancelled just as its last response
        # is sent; the server ends it by itself at once.
        with suppress(grpc.RpcError):
            while await self._call.read() is not grpc.aio.EOF:
                pass

    async def aclose(self) -> None:
        """Cancel the request if it has not ended; its rows on the server are free at the next iteration."""
        self._is_closed = True
        self._call.cancel()


class AsyncClient:
    """A server's model. Owns a gRPC channel; an async context manager. Make it where an event loop runs.

    url: host:port of Triton's gRPC endpoint. model: as Triton names it; version: one of its versions, "" for the one
    that the server's policy picks. timeout_s: how long each request may take as a whole, None for no bound. tls: None
    for a connection in the clear. headers: sent with each request. keepalive_s: how long nothing may come before the
    connection is probed; servers hang up on those that probe more often than they allow.
    """

    def __init__(
        self,
        url: str = "127.0.0.1:8001",
        model: str = "flover",
        timeout_s: float | None = None,
        *,
        version: str = "",
        tls: Tls | None = None,
        headers: Mapping[str, str] | None = None,
        keepalive_s: float = KEEPALIVE_S,
    ) -> None:
        """Connects when the first request comes.

        Raises RuntimeError where no event loop runs, ValueError for what is no address, OSError for TLS files.
        """
        self.url = url
        self.model = model
        self.version = version
        self.timeout_s = timeout_s
        self._metadata = metadata(headers)
        self._is_closed = False
        make = grpc.aio.insecure_channel if tls is None else grpc.aio.secure_channel
        arguments = channel_arguments(url, tls, keepalive_s)
        self._check_loop()
        self._channel = make(**arguments)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    @staticmethod
    def _check_loop() -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise RuntimeError(
                "AsyncClient belongs to the event loop that runs where it is made; make it inside a coroutine, as "
                "`async with AsyncClient(url) as client:`"
            ) from None

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the channel; requests that still live are cancelled."""
        self._is_closed = True
        await self._channel.close()

    async def is_ready(self, timeout_s: float = 5) -> bool:
        """Whether the server is there and has the model."""
        self._check_open()
        request = service_pb2.ModelReadyRequest(name=self.model, version=self.version)
        try:
            answer = await self._stub.ModelReady(request, timeout=timeout_s, metadata=self._metadata)
        except grpc.RpcError:
            return False
        return bool(answer.ready)

    async def generate(
        self, prompt: Prompt, *, timeout_s: float | None = None, request_id: str = "", **parameters: Unpack[Parameters]
    ) -> Response:
        """The whole answer, in one response. Raises `RequestFailed`.

        timeout_s: instead of the client's.
        """
        async with self._open(prompt, False, timeout_s, request_id, parameters) as stream:
            answer = await anext(stream)
            await anext(stream, None)  # a model in a PyTriton program says apart from its response that it was the last
        return replace(answer, is_final=True)

    def stream(
        self, prompt: Prompt, *, timeout_s: float | None = None, request_id: str = "", **parameters: Unpack[Parameters]
    ) -> AsyncStream:
        """Send the request; its responses are an iterator. Texts and token ids of all add up to `generate`'s."""
        return self._open(prompt, True, timeout_s, request_id, parameters)

    async def chat(
        self,
        messages: Sequence[Message],
        template: ChatTemplate,
        *,
        timeout_s: float | None = None,
        request_id: str = "",
        **parameters: Unpack[Parameters],
    ) -> Response:
        """`generate` of the conversation as `template` renders it. Raises `TemplateError` too."""
        prompt = template.render(messages)
        return await self.generate(prompt, timeout_s=timeout_s, request_id=request_id, **parameters)

    def chat_stream(
        self,
        messages: Sequence[Message],
        template: ChatTemplate,
        *,
        timeout_s: float | None = None,
        request_id: str = "",
        **parameters: Unpack[Parameters],
    ) -> AsyncStream:
        """`stream` of the conversation as `template` renders it. Raises `TemplateError` too."""
        prompt = template.render(messages)
        return self.stream(prompt, timeout_s=timeout_s, request_id=request_id, **parameters)

    def _open(
        self, prompt: Prompt, stream: bool, timeout_s: float | None, request_id: str, parameters: Parameters
    ) -> AsyncStream:
        self._check_open()
        request = build_request(
            self.model, self.version, prompt, stream=stream, request_id=request_id, parameters=parameters
        )
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        # NOTE: the one request ends the sending side at once, so the server ends the stream with the answer; one that
        # stays open would keep the server from stopping.
        call = self._stub.ModelStreamInfer(iter([request]), timeout=timeout_s, metadata=self._metadata)
        return AsyncStream(call, Progress(self.url, timeout_s))

    def _check_open(self) -> None:
        if self._is_closed:
            raise RuntimeError("this client is closed")
