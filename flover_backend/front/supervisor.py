"""The present engine of a front: when it dies, another takes its place, and what had waited runs there.

One connection is one EngineClient (client.py); this is what outlives it. Knows which requests were handed over and
asks the front which of them may run again; knows no streams, no text, no Triton.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from typing import Protocol

import msgspec

from flover_backend.channel import EngineInfo
from flover_backend.engine_files import EngineFiles
from flover_backend.errors import EngineFailed
from flover_backend.front.client import EngineClient
from flover_backend.front.engine_news import EngineHandler
from flover_backend.front.loading import await_ready
from flover_backend.front.rendezvous import Attachment, EngineSpec, Log, attach
from flover_backend.front.restarts import ModelChanged, NoRestart, RestartLimit
from flover_backend.request import Request

CLOSE_TIMEOUT_S = 5.0
PAUSE_S = 0.5
"""Between a start that failed and the next; longer each time."""


class RestartHandler(EngineHandler, Protocol):
    """What a front does besides, when its engine is not the same all the time."""

    def on_lost(self, message: str, limit: str, suspects: set[int]) -> None:
        """The engine failed, hung or is gone; `limit`: how often it may be started again.

        `suspects`: keys of the requests that may be the reason, where it could say so.
        `on_restarted` or `on_failed` follows.
        """

    def on_restart(self, message: str, limit: str) -> None:
        """It is tried, or tried again because of `message`."""

    def waiting(self) -> list[int]:
        """Keys of the requests that are to run again, in their order."""

    def on_counted(self) -> None:
        """This front starts an engine again; no other counts this one."""

    def on_restarted(self) -> None:
        """They are with the new engine; new ones may come."""


class EngineSupervisor:
    """An EngineClient (see there) whose engine is started again when it dies. Any thread may call but for `start`."""

    def __init__(self, spec: EngineSpec, front_name: str, log: Log) -> None:
        """Attach to the model's engine, starting it if there is none, and wait until it is loaded.

        This first load is not tried again. Raises as `EngineClient.connect`; then nothing is left behind.
        """
        self._spec = spec
        self._name = front_name
        self._log = log
        self._limit = RestartLimit(spec.config)
        self._key = spec.key()
        self._keys = itertools.count(1)
        self._handover = threading.Lock()
        self._handed: dict[int, bytes] = {}
        self._stats: list[tuple[int, dict[str, int]]] = []
        self._is_up = False
        self._failure: str | None = None
        self._closing = threading.Event()
        self._attaching: Attachment | None = None
        self._restart: threading.Thread | None = None
        self._client = self._connect(is_restart=False)
        self.info: EngineInfo = self._client.info

    def start(self, handler: RestartHandler) -> None:
        """Begin to call `handler`."""
        self._handler = handler
        self._is_up = True
        self._limit.counted = handler.on_counted
        self._client.start(handler, self._on_lost, self._on_gone)

    def next_key(self) -> int:
        """A key that no other request of this front has, whichever engine it meets."""
        return next(self._keys)

    def submit(self, request: Request) -> None:
        """Answered through the handler, by this engine or a later one. Raises `EngineFailed` when there is none."""
        with self._handover:
            if self._failure is not None:
                raise EngineFailed(f"the engine has failed: {self._failure}")
            self._handed[request.key] = msgspec.msgpack.encode(request)
            if self._is_up:
                with contextlib.suppress(EngineFailed):  # it has just gone: the next one gets the request
                    self._client.submit(request)

    def forget(self, key: int) -> None:
        """The request has had its end."""
        self._handed.pop(key, None)

    def cancel(self, key: int) -> None:
        """The request is of no use any more."""
        with self._handover:
            if self._is_up:
                self._client.cancel(key)

    def finish(self, key: int, index: int, num_tokens: int) -> None:
        """A stop string ended sequence `index` after its `num_tokens`-th token."""
        self._client.finish(key, index, num_tokens)

    def front_stats(self, coalesced_responses: int = 0, rejected: dict[str, int] | None = None) -> None:
        """Increments of what only the front can count; they wait for the next engine when there is none."""
        with self._handover:
            self._stats.append((coalesced_responses, rejected or {}))
            self._report()

    def metrics_written(self, sequence: int) -> None:
        """The snapshot `sequence` is in Triton's metrics."""
        self._client.metrics_written(sequence)

    def close(self) -> None:
        """Leave the engine, or stop waiting for one. Bounded."""
        self._closing.set()
        attaching = self._attaching
        if attaching is not None:
            attaching.abandon()
        if self._restart is not None and self._restart is not threading.current_thread():
            self._restart.join(CLOSE_TIMEOUT_S)
        self._client.close()
        self.remove_files()

    @property
    def files(self) -> EngineFiles:
        """The present engine's."""
        return self._client.files

    def remove_files(self) -> None:
        """What the engine left, if it is gone: nobody will start it again for this front."""
        self._client.remove_files()

    def _on_lost(self, message: str) -> None:
        """In the client's reader thread."""
        with self._handover:
            self._is_up = False
        if self._client.is_draining:
            self._fail(f"{message} while it was draining")
        elif not self._limit.left:
            self._fail(f"{message}; {self._limit.used_up()}")
        else:
            self._handler.on_lost(message, self._limit.describe(), self._client.suspects)

    def _on_gone(self, message: str) -> None:
        """In the same thread, when the process has ended."""
        self._restart = threading.current_thread()
        pause_s = PAUSE_S
        while self._failure is None and not self._closing.is_set():
            self._handler.on_restart(message, self._limit.describe())
            try:
                client = self._connect(is_restart=True)
            except NoRestart as error:
                return self._fail(f"{message}; {error}")
            except Exception as error:
                # NOTE: a full disk, no descriptors left: who waits must get an answer or an end.
                message = str(error) if isinstance(error, EngineFailed) else f"{type(error).__name__}: {error}"
                self._log(f"the engine could not be started again: {message}")
                self._closing.wait(pause_s)
                pause_s *= 2
            else:
                return self._try_to_take(client)

    def _try_to_take(self, client: EngineClient) -> None:
        try:
            self._take(client)
        except Exception as error:  # NOTE: as above
            client.close()
            self._fail(f"the new engine could not be given what waits: {type(error).__name__}: {error}")

    def _take(self, client: EngineClient) -> None:
        """The new engine gets what waits, in its order, before anything new."""
        with self._handover:
            dead, self._client, self.info = self._client, client, client.info
            for key in self._handler.waiting():
                packed = self._handed.get(key)
                if packed is not None:
                    client.submit(msgspec.msgpack.decode(packed, type=Request), again=True)
            self._is_up = True
            self._report()
        dead.close()
        self._handler.on_restarted()
        client.start(self._handler, self._on_lost, self._on_gone)

    def _fail(self, message: str) -> None:
        with self._handover:
            self._failure = message
        self._handler.on_failed(message)

    def _report(self) -> None:
        if self._is_up:
            stats, self._stats = self._stats, []
            for coalesced_responses, rejected in stats:
                self._client.front_stats(coalesced_responses, rejected)

    def _attach_again(self) -> Attachment:
        left = self._limit.left
        try:
            if self._spec.key() != self._key:
                raise ModelChanged("its files or its configuration have changed since it was loaded: load it again")
            return attach(self._spec, self._name, self._log, self._limit)
        except NoRestart:
            raise
        except Exception:
            if self._limit.left == left:
                self._limit.count_failure()
            raise

    def _connect(self, *, is_restart: bool) -> EngineClient:
        attachment = self._attach_again() if is_restart else attach(self._spec, self._name, self._log)
        self._attaching = attachment
        try:
            if self._closing.is_set():
                raise EngineFailed("this instance is ending")
            client = EngineClient(attachment, await_ready(attachment, self._log))
        except BaseException:
            attachment.connection.close()
            attachment.clean_up()
            raise
        finally:
            self._attaching = None
        self._limit.learn(attachment.files)
        return client
