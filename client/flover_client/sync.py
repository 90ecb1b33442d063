"""The sync client: a gRPC channel, and a stream of its own for each request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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


class Stream(Iterator[Response]):
    """The responses to one request, as they come. Closing it, or dropping it, cancels what is still to come.

    Iterating raises `RequestFailed`. A context manager; `close` may be called from another thread, the iteration
    then ends.
    """

    def __init__(self, call: Any, progress: Progress) -> None:
        self._call = call
        self._progress = progress
        self._is_closed = False

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __next__(self) -> Response:
        while not (self._is_closed or self._progress.is_over):
            try:
                message = next(self._call, None)
            except grpc.RpcError as error:
                if self._is_closed:
                    break
                raise self._progress.break_off(error) from None
            if message is not None and is_over(message):
                self._read_to_end()
            response = self._progress.take(message)
            if response is not None:
                return response
        raise StopIteration

    def _read_to_end(self) -> None:
        # NOTE: Triton 24.10 keeps a stream for ever, and cannot stop, when it is cancelled just as its last response
        # is sent; the server ends it by itself at once.
        with suppress(grpc.RpcError):
            for _ in self._call:
                pass

    def close(self) -> None:
        """Cancel the request if it has not ended; its rows on the server are free at the next iteration."""
        self._is_closed = True
        self._call.cancel()


class Client:
    """A server's model. Owns a gRPC channel, which threads may share; a context manager.

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
        """Connects when the first request comes. Raises ValueError for what is no address, OSError for TLS files."""
        self.url = url
        self.model = model
        self.version = version
        self.timeout_s = timeout_s
        self._metadata = metadata(headers)
        self._is_closed = False
        make = grpc.insecure_channel if tls is None else grpc.secure_channel
        self._channel = make(**channel_arguments(url, tls, keepalive_s))
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the channel; requests that still live are cancelled."""
        self._is_closed = True
        self._channel.close()

    def is_ready(self, timeout_s: float = 5) -> bool:
        """Whether the server is there and has the model."""
        self._check_open()
        request = service_pb2.ModelReadyRequest(name=self.model, version=self.version)
        try:
            answer = self._stub.ModelReady(request, timeout=timeout_s, metadata=self._metadata)
        except grpc.RpcError:
            return False
        return bool(answer.ready)

    def generate(
        self, prompt: Prompt, *, timeout_s: float | None = None, request_id: str = "", **parameters: Unpack[Parameters]
    ) -> Response:
        """The whole answer, in one response. Raises `RequestFailed`.

        timeout_s: instead of the client's.
        """
        with self._open(prompt, False, timeout_s, request_id, parameters) as stream:
            answer = next(stream)
            next(stream, None)  # a model in a PyTriton program says apart from its response that it was the last
        return replace(answer, is_final=True)

    def stream(
        self, prompt: Prompt, *, timeout_s: float | None = None, request_id: str = "", **parameters: Unpack[Parameters]
    ) -> Stream:
        """Send the request; its responses are an iterator. Texts and token ids of all add up to `generate`'s."""
        return self._open(prompt, True, timeout_s, request_id, parameters)

    def chat(
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
        return self.generate(prompt, timeout_s=timeout_s, request_id=request_id, **parameters)

    def chat_stream(
        self,
        messages: Sequence[Message],
        template: ChatTemplate,
        *,
        timeout_s: float | None = None,
        request_id: str = "",
        **parameters: Unpack[Parameters],
    ) -> Stream:
        """`stream` of the conversation as `template` renders it. Raises `TemplateError` too."""
        prompt = template.render(messages)
        return self.stream(prompt, timeout_s=timeout_s, request_id=request_id, **parameters)

    def _open(
        self, prompt: Prompt, stream: bool, timeout_s: float | None, request_id: str, parameters: Parameters
    ) -> Stream:
        self._check_open()
        request = build_request(
            self.model, self.version, prompt, stream=stream, request_id=request_id, parameters=parameters
        )
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        # NOTE: the one request ends the sending side at once, so the server ends the stream with the answer; one that
        # stays open would keep the server from stopping.
        call = self._stub.ModelStreamInfer(iter([request]), timeout=timeout_s, metadata=self._metadata)
        return Stream(call, Progress(self.url, timeout_s))

    def _check_open(self) -> None:
        if self._is_closed:
            raise RuntimeError("this client is closed")
