"""One process of the generator: its share of the calls, a gRPC stream each, on one connection of its own.

asyncio's clock is CLOCK_MONOTONIC, which all processes of a machine share. A response costs its time stamp and a list's
append; what it holds is read after the run, except where a cancellation waits for a number of tokens.
"""

from __future__ import annotations

import asyncio
import gc
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection

import grpc
import numpy as np

from benchmarks.suite.load.calls import Answer, Call
from benchmarks.suite.load.wire import METHOD, finish_reason, num_tokens, request_bytes

OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
)
CODE = re.compile(r"\[([A-Z_]+)\]$")
"""At the end of an error's text: a stream of Triton carries no other code."""


def work(
    pipe: Connection,
    url: str,
    model: str,
    headers: Sequence[tuple[str, str]],
    calls: Sequence[Call],
    limit_s: float,
    connect_timeout_s: float,
    users: int | None = None,
) -> None:
    """A process's life: "ready", then the start's time comes, then the answers go back; or an exception.

    Ctrl-C reaches it as it reaches the command, which says so: it ends without a word.
    """
    try:
        pipe.send(asyncio.run(_work(pipe, url, model, headers, calls, limit_s, connect_timeout_s, users)))
    except KeyboardInterrupt:
        return
    except Exception as error:
        pipe.send(
            error if isinstance(error, (OSError, ValueError)) else RuntimeError(f"{type(error).__name__}: {error}")
        )


async def _work(
    pipe: Connection,
    url: str,
    model: str,
    headers: Sequence[tuple[str, str]],
    calls: Sequence[Call],
    limit_s: float,
    connect_timeout_s: float,
    users: int | None,
) -> list[Answer]:
    messages = [request_bytes(call, model) for call in calls]
    async with grpc.aio.insecure_channel(url, options=OPTIONS) as channel:
        try:
            await asyncio.wait_for(channel.channel_ready(), connect_timeout_s)
        except TimeoutError:
            told = f"no gRPC server answered within {connect_timeout_s:g} s; start one, or name another address"
            raise ConnectionError(told) from None
        open_stream = channel.stream_stream(METHOD, request_serializer=None, response_deserializer=None)
        metadata = tuple(headers)
        gc.collect()
        gc.disable()  # a pause of the client would count as the server's
        pipe.send("ready")
        start = await asyncio.get_running_loop().run_in_executor(None, pipe.recv)
        streams = [_Stream(call, message, start) for call, message in zip(calls, messages, strict=True)]
        if users is None:
            await asyncio.gather(*(stream.run(open_stream, metadata, limit_s) for stream in streams))
        else:
            await _in_turn(streams, users, lambda stream: stream.run(open_stream, metadata, limit_s))
        gc.enable()
        return [stream.answer() for stream in streams]


async def _in_turn(streams: Sequence[_Stream], users: int, send: Callable[[_Stream], Awaitable[None]]) -> None:
    """So many at any moment."""
    waiting = iter(streams)

    async def user() -> None:
        for stream in waiting:
            await send(stream)

    await asyncio.gather(*(user() for _ in range(users)))


class _Stream:
    """One call."""

    def __init__(self, call: Call, message: bytes, start: float) -> None:
        self._call, self._message, self._start = call, message, start
        self._responses: list[tuple[float, bytes]] = []
        self._code, self._text = "", ""
        self._sent = self._ended = 0.0
        self._is_cancelled = False

    async def run(
        self, open_stream: grpc.aio.StreamStreamMultiCallable, metadata: tuple[tuple[str, str], ...], limit_s: float
    ) -> None:
        """Until its stream is over. Never raises for what the server answers."""
        await asyncio.sleep(max(0.0, self._start + self._call.at - time.monotonic()))
        self._sent = time.monotonic()
        stream = open_stream(metadata=metadata, timeout=limit_s)
        try:
            await stream.write(self._message)
            await stream.done_writing()
            if self._call.cancel_after == 0:
                self._cancel(stream)
            await self._read(stream)
        except asyncio.CancelledError:
            if not self._is_cancelled:
                raise
        except grpc.aio.AioRpcError as error:
            self._code, self._text = error.code().name, error.details() or ""
        except grpc.aio.UsageError:  # the stream was over before it was written: its status says why
            self._code, self._text = (await stream.code()).name, await stream.details()
        self._ended = time.monotonic()

    async def _read(self, stream: grpc.aio.StreamStreamCall) -> None:
        now, append, read, end = time.monotonic, self._responses.append, stream.read, grpc.aio.EOF
        wanted, got = self._call.cancel_after, 0
        while (response := await read()) is not end:
            append((now(), response))
            if wanted and not self._is_cancelled:
                with suppress(ValueError):  # an error ends the stream; `answer` reads it
                    got += num_tokens(response)
                if got >= wanted:
                    self._cancel(stream)
        if not self._is_cancelled and (code := await stream.code()) is not grpc.StatusCode.OK:
            self._code, self._text = code.name, await stream.details()

    def _cancel(self, stream: grpc.aio.StreamStreamCall) -> None:
        self._is_cancelled = True
        stream.cancel()

    def answer(self) -> Answer:
        """After `run`. A response of an error counts as none."""
        counts, finish = [], ""
        for _, response in self._responses:
            try:
                counts.append(num_tokens(response))
                finish = finish_reason(response)
            except ValueError as error:
                found = CODE.search(str(error))
                self._code, self._text = found[1] if found else self._code or "UNKNOWN", str(error)
                break
        # NOTE: an empty last response only ends the request, as PyTriton's does.
        if len(counts) > 1 and not counts[-1]:
            counts.pop()
        times = np.array([at for at, _ in self._responses[: len(counts)]], dtype=np.float64) - self._start
        return Answer(
            self._sent - self._start,
            self._ended - self._start,
            times,
            np.array(counts, dtype=np.int32),
            finish,
            "" if self._is_cancelled else self._code,
            "" if self._is_cancelled else self._text,
            self._is_cancelled,
        )
