"""The front's end of the channel: submits requests to the engine process and hands its news to a handler.

Knows the messages and the rendezvous; knows no Triton, no text, no torch.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from pathlib import Path
from typing import Protocol

from flover_backend.channel import (
    Cancel,
    Drained,
    Ended,
    EngineInfo,
    Failed,
    Finish,
    FrameReader,
    FrontStats,
    Leader,
    Loading,
    Metrics,
    MetricsWritten,
    Ready,
    Refused,
    Status,
    Submit,
    ToEngine,
    ToFront,
    Tokens,
    encode,
)
from flover_backend.config import ModelJson
from flover_backend.errors import ConfigError, EngineFailed
from flover_backend.front.rendezvous import Attachment, EngineSpec, Log, attach
from flover_backend.request import FinishReason, Request

RECEIVE_BYTES = 1 << 18
LOAD_SILENCE_S = 600.0
"""A load that says nothing for so long is given up."""
LOAD_LOG_INTERVAL_S = 10.0
CLOSE_TIMEOUT_S = 5.0

TokenLogprob = tuple[float, int, list[tuple[int, float]]]
"""(logprob, rank, top [(id, logprob)]) of one token."""


class EngineHandler(Protocol):
    """What a front does with the engine's news. All methods are called from the client's one reader thread.

    They must not block for long (nobody else reads the socket) and should not raise: an exception is treated as the
    engine's failure, `on_failed` is called.
    """

    def on_tokens(
        self, key: int, index: int, token_ids: list[int], finish: FinishReason, logprobs: list[TokenLogprob] | None
    ) -> None:
        """New tokens of sequence `index`; `finish` is not NONE with the last ones (which may be an empty list)."""

    def on_ended(self, key: int, code: str, message: str, reason: str) -> None:
        """The request is over as a whole. `code` is a Triton error code's name (CANCELLED, UNAVAILABLE, ...).

        `reason`: refused (never accepted), cancelled, deadline, shutdown, internal.
        """

    def on_status(self, status: Status) -> None:
        """The queue became full or has room again (`accepting`), or a drain began (`draining`)."""

    def on_drain(self) -> None:
        """A drain began: new requests are refused by the engine from now on. Called once, before `on_status`."""

    def on_leader(self, acknowledged: Metrics | None) -> None:
        """This front writes the metrics from now on; `acknowledged` is what its predecessor has written."""

    def on_metrics(self, metrics: Metrics) -> None:
        """A snapshot to write; then call `metrics_written(metrics.sequence)`."""

    def on_failed(self, message: str) -> None:
        """The engine failed or is gone; every live request is to end with INTERNAL. Called at most once, the last."""


class EngineClient:
    """A front's connection to its engine process.

    Life: `connect()` (blocks until the engine is loaded), `start(handler)`, requests, `close()`.

        client = EngineClient.connect(config, model_dir, "flover", "1", server_pid, "flover_0_0", log=print)
        client.info                       # EngineInfo: limits, vocabulary, ...
        client.start(handler)             # from here on the handler is called
        key = client.next_key()           # register whatever the handler needs for this key first, then
        client.submit(Request(key=key, prompt_ids=..., params=..., arrival_time=time.monotonic()))
        client.cancel(key)                # the client is gone: answered by on_ended, unless it has just finished
        client.finish(key, index, n)      # a stop string ended sequence `index` after n tokens
        client.front_stats(coalesced_responses=3, rejected={"invalid_arg": 1})   # increments
        client.metrics_written(sequence)
        client.close()

    All methods but `connect` and `start` may be called from any thread. `submit` raises `EngineFailed` once the
    engine is gone; the others then do nothing. A request submitted just before the engine goes gets no answer of
    its own: `on_failed` ends it.
    """

    def __init__(self, attachment: Attachment, info: EngineInfo, reader: FrameReader, pending: list[ToFront]) -> None:
        self.info = info
        self._attachment = attachment
        self._socket = attachment.connection
        self._reader = reader
        self._pending = pending
        self._keys = itertools.count((info.front_number << 40) + 1)
        self._send_lock = threading.Lock()
        self._failure: str | None = None
        self._closing = False
        self._draining = False
        self._thread: threading.Thread | None = None

    @classmethod
    def connect(
        cls,
        config: ModelJson,
        model_dir: Path,
        model_name: str,
        model_version: str,
        server_pid: int,
        front_name: str,
        *,
        log: Log,
        factory: str = "",
    ) -> EngineClient:
        """Attach to the model's engine, starting it if there is none, and wait until it is loaded.

        Progress goes to `log`, one line a call. Raises `ConfigError` (an operator can mend it) or `EngineFailed`;
        then nothing is left behind.
        """
        spec = EngineSpec(config, model_dir, model_name, model_version, server_pid, factory)
        attachment = attach(spec, front_name, log)
        try:
            return cls._await_ready(attachment, log)
        except BaseException:
            attachment.connection.close()
            _clean_up(attachment)
            raise

    @classmethod
    def _await_ready(cls, attachment: Attachment, log: Log) -> EngineClient:
        reader = FrameReader(engine_side=False)
        progress = _LoadProgress(log)
        attachment.connection.settimeout(LOAD_LOG_INTERVAL_S)
        while True:
            messages = _receive(attachment, reader, progress)
            for position, message in enumerate(messages):
                if isinstance(message, Loading):
                    progress.update(message)
                elif isinstance(message, Failed):
                    raise (ConfigError if message.code == ConfigError.code else EngineFailed)(message.message)
                elif isinstance(message, Ready):
                    attachment.connection.settimeout(None)
                    return cls(attachment, message.info, reader, messages[position + 1 :])

    def start(self, handler: EngineHandler) -> None:
        """Begin to call `handler`."""
        self._thread = threading.Thread(target=self._read, args=(handler,), name="engine-client", daemon=True)
        self._thread.start()

    def next_key(self) -> int:
        """A key that no other request of this engine has."""
        return next(self._keys)

    def submit(self, request: Request) -> None:
        """Answered through the handler. Raises `EngineFailed` when the engine is gone."""
        if self._failure is not None or self._closing:
            raise EngineFailed(self._failure or "this instance is ending")
        self._send(Submit(request))

    def cancel(self, key: int) -> None:
        """The client of `key` is gone."""
        self._send(Cancel(key))

    def finish(self, key: int, index: int, num_tokens: int) -> None:
        """A stop string ended sequence `index` after its `num_tokens`-th token."""
        self._send(Finish(key, index, num_tokens))

    def front_stats(self, coalesced_responses: int = 0, rejected: dict[str, int] | None = None) -> None:
        """Increments of what only the front can count."""
        self._send(FrontStats(coalesced_responses, rejected or {}))

    def metrics_written(self, sequence: int) -> None:
        """The snapshot `sequence` is in Triton's metrics."""
        self._send(MetricsWritten(sequence))

    def close(self) -> None:
        """Detach; live requests of this front are cancelled. If this was the last front, waits for the engine's end.

        Bounded by `CLOSE_TIMEOUT_S`. The handler is not called after this returns.
        """
        self._closing = True
        with contextlib.suppress(OSError):
            # NOTE: the engine closes its end at once if others go on, else by ending, its files removed: EOF says so.
            self._socket.shutdown(socket.SHUT_WR)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(CLOSE_TIMEOUT_S)
        else:
            self._wait_for_eof()
        self._socket.close()
        _reap(self._attachment, timeout_s=0.05)

    def _wait_for_eof(self) -> None:
        self._socket.settimeout(CLOSE_TIMEOUT_S)
        with contextlib.suppress(OSError):
            while self._socket.recv(RECEIVE_BYTES):
                pass

    def _send(self, message: ToEngine) -> None:
        frame = encode(message)
        with self._send_lock, contextlib.suppress(OSError):
            self._socket.sendall(frame)

    def _read(self, handler: EngineHandler) -> None:
        try:
            message = self._dispatch_until_end(handler)
        except Exception as error:  # NOTE: whatever it was, the requests must get their ends.
            message = f"the engine's messages could not be handled: {error!r}"
        if not self._closing:
            self._failure = message or f"the engine process{_exit_text(self._attachment)} is gone"
            handler.on_failed(self._failure)
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)  # an engine that lives is to end this front's requests
            _clean_up(self._attachment)

    def _dispatch_until_end(self, handler: EngineHandler) -> str | None:
        """The engine's last word; None when it went without one."""
        messages = self._pending
        while True:
            for message in messages:
                if isinstance(message, Failed):
                    return message.message
                if not self._closing:
                    self._dispatch(message, handler)
            try:
                data = self._socket.recv(RECEIVE_BYTES)
            except OSError as error:
                return f"the connection to the engine process broke: {error}"
            if not data:
                return None
            messages = self._reader.feed(data)  # type: ignore[assignment]

    def _dispatch(self, message: ToFront, handler: EngineHandler) -> None:
        if isinstance(message, Tokens):
            entries = zip(message.keys, message.indexes, message.token_ids, message.finish, strict=True)
            for entry, (key, index, token_ids, finish) in enumerate(entries):
                handler.on_tokens(key, index, token_ids, FinishReason(finish), message.logprobs.get(entry))
        elif isinstance(message, Ended):
            handler.on_ended(message.key, message.code, message.message, message.reason)
        elif isinstance(message, Refused):
            handler.on_ended(message.key, message.code, message.message, "refused")
        elif isinstance(message, Metrics):
            handler.on_metrics(message)
        elif isinstance(message, Leader):
            handler.on_leader(message.acknowledged)
        elif isinstance(message, Status):
            self._dispatch_status(message, handler)
        elif not isinstance(message, Drained):
            raise ValueError(f"a front does not get {type(message).__name__}")

    def _dispatch_status(self, status: Status, handler: EngineHandler) -> None:
        if status.draining and not self._draining:
            self._draining = True
            handler.on_drain()
        handler.on_status(status)


class _LoadProgress:
    """Log lines while the engine loads: at each new stage, and every few seconds within one."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._stage = "starting"
        self._fraction = 0.0
        self._last_news = self._last_line = time.monotonic()

    def update(self, message: Loading) -> None:
        """News from the engine."""
        self._last_news = time.monotonic()
        new_stage = message.stage != self._stage
        self._stage, self._fraction = message.stage, message.fraction
        self._line(force=new_stage)

    def silence(self) -> None:
        """Nothing came for a while. Raises `EngineFailed` when that is too long."""
        silent = time.monotonic() - self._last_news
        if silent > LOAD_SILENCE_S:
            raise EngineFailed(f"the engine said nothing for {silent:.0f} s while loading (stage: {self._stage})")
        self._line(force=False)

    def _line(self, force: bool) -> None:
        now = time.monotonic()
        if force or now - self._last_line >= LOAD_LOG_INTERVAL_S:
            self._last_line = now
            self._log(f"engine: {self._stage}, {self._fraction:.0%}")


def _receive(attachment: Attachment, reader: FrameReader, progress: _LoadProgress) -> list[ToFront]:
    try:
        data = attachment.connection.recv(RECEIVE_BYTES)
    except TimeoutError:
        progress.silence()
        return []
    except OSError as error:
        raise EngineFailed(f"the connection to the engine process broke while it loaded: {error}") from None
    if not data:
        exit_text = _exit_text(attachment)
        raise EngineFailed(
            f"the engine process{exit_text} ended before it was ready; its output is in the server's log"
        )
    return reader.feed(data)  # type: ignore[return-value]


def _exit_text(attachment: Attachment) -> str:
    code = _reap(attachment, timeout_s=2.0)
    return "" if code is None else f" (exit code {code})"


def _reap(attachment: Attachment, timeout_s: float) -> int | None:
    """Exit code of the engine if this front started it and it has ended."""
    if attachment.process is None:
        return None
    with contextlib.suppress(Exception):
        return attachment.process.wait(timeout_s)
    return None


def _clean_up(attachment: Attachment) -> None:
    """After a failure: leave neither a zombie nor files of a dead engine."""
    _reap(attachment, timeout_s=2.0)
    attachment.files.remove_if_dead()
