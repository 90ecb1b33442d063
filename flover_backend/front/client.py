"""The front's end of the channel: submits requests to the engine process and hands its news to a handler.

Knows the messages and the rendezvous; knows no Triton, no text, no torch.
"""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from flover_backend.channel import (
    Cancel,
    Drained,
    Ended,
    Failed,
    Finish,
    FrontStats,
    Heartbeat,
    Leader,
    Metrics,
    MetricsWritten,
    Refused,
    Status,
    Submit,
    ToEngine,
    ToFront,
    Tokens,
    encode,
)
from flover_backend.config import ModelJson
from flover_backend.errors import EngineFailed
from flover_backend.front.engine_life import EngineLife
from flover_backend.front.engine_news import EngineHandler
from flover_backend.front.loading import LoadedEngine, await_ready
from flover_backend.front.rendezvous import Attachment, EngineSpec, Log, attach
from flover_backend.request import FinishReason, Request
from flover_backend.thread_names import tell_kernel_the_name

RECEIVE_BYTES = 1 << 18
CLOSE_TIMEOUT_S = 5.0
KEY_BITS = 40
KEY_MASK = (1 << KEY_BITS) - 1


class EngineClient:
    """A front's connection to one engine process.

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

    A front's keys are its own: on the wire they are put behind the number that the engine gave to this connection.
    An engine that hangs (front/engine_life.py) is killed here, which is its end as any other.
    All methods but `connect` and `start` may be called from any thread. `submit` raises `EngineFailed` once the
    engine is gone; the others then do nothing. A request submitted just before the engine goes gets no answer of
    its own: `on_failed` ends it.
    """

    def __init__(self, attachment: Attachment, loaded: LoadedEngine) -> None:
        self.info = loaded.info
        self.files = attachment.files
        self._attachment = attachment
        self._socket = attachment.connection
        self._reader = loaded.reader
        self._pending = loaded.pending
        self._life = EngineLife(self.info.pid, attachment.files.stem)
        self._keys = itertools.count(1)
        self._base = self.info.front_number << KEY_BITS
        self._send_lock = threading.Lock()
        self._failure: str | None = None
        self._suspects: tuple[int, ...] = ()
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
            return cls(attachment, await_ready(attachment, log))
        except BaseException:
            attachment.connection.close()
            attachment.clean_up()
            raise

    def start(
        self,
        handler: EngineHandler,
        on_lost: Callable[[str], None] | None = None,
        on_gone: Callable[[str], None] | None = None,
    ) -> None:
        """Begin to call `handler`.

        `on_lost(message)` takes the place of its `on_failed`; `on_gone(message)` follows when the process has ended and
        what it left is removed.
        """
        self._on_lost, self._on_gone = on_lost or handler.on_failed, on_gone
        self._thread = threading.Thread(target=self._read, args=(handler,), name="engine-client", daemon=True)
        self._thread.start()

    def next_key(self) -> int:
        """A key that no other request of this front has."""
        return next(self._keys)

    def submit(self, request: Request, *, again: bool = False) -> None:
        """Answered through the handler. Raises `EngineFailed` when the engine is gone.

        `again`: an engine that died had accepted it.
        """
        if self._failure is not None or self._closing:
            raise EngineFailed(self._failure or "this instance is ending")
        self._send(Submit(msgspec.structs.replace(request, key=self._base | request.key), again))

    def cancel(self, key: int) -> None:
        """The client of `key` is gone."""
        self._send(Cancel(self._base | key))

    def finish(self, key: int, index: int, num_tokens: int) -> None:
        """A stop string ended sequence `index` after its `num_tokens`-th token."""
        self._send(Finish(self._base | key, index, num_tokens))

    def front_stats(self, coalesced_responses: int = 0, rejected: dict[str, int] | None = None) -> None:
        """Increments of what only the front can count."""
        self._send(FrontStats(coalesced_responses, rejected or {}))

    @property
    def is_draining(self) -> bool:
        """The engine has said that it takes no more requests."""
        return self._draining

    @property
    def suspects(self) -> set[int]:
        """Requests that an engine which failed or hangs was computing, and had no token of yet."""
        return {key & KEY_MASK for key in self._suspects if key & ~KEY_MASK == self._base}

    def remove_files(self) -> None:
        """What the engine left, if it is gone: nobody will start it again."""
        self._attachment.files.remove_if_dead()

    def metrics_written(self, sequence: int) -> None:
        """The snapshot `sequence` is in Triton's metrics."""
        self._send(MetricsWritten(sequence))

    def close(self) -> None:
        """Detach; live requests of this front are cancelled. If this was the last front, waits for the engine's end.

        Bounded by `CLOSE_TIMEOUT_S`. The handler is not called after this returns. A second call does nothing.
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
        if self._thread is None:
            self._life.close()
        self._attachment.exit_code(timeout_s=0.05)

    def _wait_for_eof(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.settimeout(CLOSE_TIMEOUT_S)
            while self._socket.recv(RECEIVE_BYTES):
                pass

    def _send(self, message: ToEngine) -> None:
        frame = encode(message)
        with self._send_lock, contextlib.suppress(OSError):
            self._socket.sendall(frame)

    def _read(self, handler: EngineHandler) -> None:
        tell_kernel_the_name()
        try:
            message = self._dispatch_until_end(handler)
        except Exception as error:  # NOTE: whatever it was, the requests must get their ends.
            message = f"the engine's messages could not be handled: {error!r}"
        if self._closing:
            self._life.close()
        else:
            self._failure = message or f"the engine process{self._attachment.exit_text()} is gone"
            self._on_lost(self._failure)
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)  # an engine that lives is to end this front's requests
            self._life.await_end()
            self._life.close()
            with contextlib.suppress(OSError):  # what is left there is removed by a later load
                self._attachment.clean_up()
            if self._on_gone is not None:
                self._on_gone(self._failure)

    def _dispatch_until_end(self, handler: EngineHandler) -> str | None:
        """The engine's last word; None when it went without one."""
        messages, poll = self._pending, select.poll()
        poll.register(self._socket, select.POLLIN)
        while True:
            for message in messages:
                if isinstance(message, Failed):
                    self._suspects = message.suspects
                    return message.message
                if not self._closing:
                    self._dispatch(message, handler)
            while not poll.poll(self._life.look_s * 1000):
                if (reason := self._life.nothing_came()) is not None:
                    self._life.kill()
                    return f"the engine process hung and was killed: {reason}"
            try:
                data = self._socket.recv(RECEIVE_BYTES)
            except OSError as error:
                return f"the connection to the engine process broke: {error}"
            if not data:
                return None
            self._life.heard()
            messages = self._reader.feed(data)  # type: ignore[assignment]

    def _dispatch(self, message: ToFront, handler: EngineHandler) -> None:
        if isinstance(message, Tokens):
            for key, queue_seconds in message.queue_seconds.items():
                handler.on_started(key & KEY_MASK, queue_seconds)
            entries = zip(message.keys, message.indexes, message.token_ids, message.finish, strict=True)
            for entry, (key, index, token_ids, finish) in enumerate(entries):
                handler.on_tokens(key & KEY_MASK, index, token_ids, FinishReason(finish), message.logprobs.get(entry))
        elif isinstance(message, Ended):
            handler.on_ended(message.key & KEY_MASK, message.code, message.message, message.reason)
        elif isinstance(message, Refused):
            handler.on_ended(message.key & KEY_MASK, message.code, message.message, "refused")
        elif isinstance(message, Heartbeat):
            self._life.beat(message)
            self._suspects = message.suspects
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
