"""`FloverEngine`: an engine process as an object of a PyTriton program, and this program as its one front.

Knows the life of the engine and the front; PyTriton itself is binding.py's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from flover_backend.channel import Metrics
from flover_backend.config import ModelJson, parse_model_json
from flover_backend.errors import ConfigError, EngineFailed
from flover_backend.front.logs import Log
from flover_backend.front.model_dir import resolve_model_dir
from flover_backend.front.rendezvous import EngineSpec
from flover_backend.front.service import FrontService
from flover_backend.front.supervisor import EngineSupervisor
from flover_backend.front.tokenizer import load_tokenizer
from flover_backend.observer import EngineObserver, find_engines
from flover_backend.pytriton import environment, orphans
from flover_backend.pytriton.binding import Binding
from flover_backend.pytriton.pacing import PacedSenders

VERSION = "1"
WITHOUT_EFFECT = ("sender_threads",)
"""Keys of model.json that mean nothing here: PyTriton's event loop sends."""


class FloverEngine:
    """An engine of its own process, loaded by `start` (or `with`), called by Triton's clients once it is bound.

        with FloverEngine("flover", model="llama-demo", max_rows=64) as engine, Triton() as triton:
            engine.bind(triton)
            triton.serve()

    The keywords are the keys of model.json (docs/configuration.md); a relative `model` starts at the current folder.
    The engine process ends with `close`, and with the program however it ends. One that dies is started again while
    `engine_restarts` are left; then its requests end with INTERNAL, the Triton that it is bound in is stopped (so
    `serve` returns), and leaving the `with` raises `EngineFailed`. All methods may be called from any thread; `start`
    from the one that lives as long as the program.
    """

    def __init__(self, name: str = "flover", **config: Any) -> None:
        """`name`: the model's in Triton. Raises `ConfigError` naming the key."""
        self.name = name
        self._config = _read_config(config)
        self._client: EngineSupervisor | None = None
        self._service: FrontService | None = None
        self._binding: Binding | None = None
        self._triton: Any = None
        self._failure: str | None = None
        self._stopping: threading.Thread | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    def start(self) -> FloverEngine:
        """Start the engine process and wait until it is loaded. Raises `ConfigError` or `EngineFailed`."""
        if self._client is not None:
            raise ConfigError(f"engine {self.name} was started before; make another one")
        config = self._config
        log = Log(self.name, config.log_format)
        spec = EngineSpec(config, resolve_model_dir(config.model, Path.cwd()), self.name, VERSION, os.getpid())
        client = EngineSupervisor(spec, self.name, log.info)
        try:
            tokenizer = load_tokenizer(Path(client.info.model_dir))
        except BaseException:
            client.close()
            raise
        senders = PacedSenders()
        service = _Front(client, tokenizer, _NoMetrics(), log, senders, header_prefix=config.header_prefix)
        service.failed = self._on_failed
        self._client, self._service, self._binding = client, service, Binding(service, senders)
        client.start(service)
        return self

    def bind(self, triton: Any) -> None:
        """Make this the model `name` of a `pytriton.triton.Triton`. Raises `ConfigError` unless it was started."""
        if self._binding is None or self._triton is not None:
            state = "is bound already" if self._binding else "is not started: use it in a with statement, or call start"
            raise ConfigError(f"engine {self.name} {state}")
        environment.check()
        self._binding.bind(triton, self.name)
        self._triton = triton
        self._guard = _start_guard()

    def metrics(self) -> dict[str, float]:
        """Totals and gauges of this moment, by the names of docs/metrics.md; PyTriton's /metrics has none of them.

        Raises `EngineFailed` when there is no engine.
        """
        with self._observer() as observer:
            snapshot = observer.metrics()
        return snapshot.counters | snapshot.gauges

    def drain(self, timeout_s: float | None = None) -> None:
        """Refuse new requests, let running ones finish for `timeout_s` (default `drain_timeout_s`), end the rest.

        Returns when nothing runs any more. Raises `EngineFailed` when there is no engine.
        """
        with self._observer() as observer:
            observer.drain(self._config.drain_timeout_s if timeout_s is None else timeout_s)

    def close(self) -> None:
        """End the requests that are left with UNAVAILABLE, and the engine process. A second call does nothing."""
        service, self._service = self._service, None
        if service is not None:
            service.close()
        if self._stopping is not None and self._stopping is not threading.current_thread():
            self._stopping.join()
        if self._guard is not None:
            self._guard.terminate()
            self._guard.wait()

    def __enter__(self) -> FloverEngine:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if self._failure is not None and error is None:
            raise EngineFailed(f"the engine has failed: {self._failure}")

    def _observer(self) -> EngineObserver:
        if self._client is not None:
            for engine in find_engines(os.getpid()):
                if engine.description.engine_pid == self._client.info.pid:
                    return EngineObserver.connect(engine, self.name)
        raise EngineFailed(f"engine {self.name} does not run")

    def _on_failed(self, message: str) -> None:
        self._failure = message
        if self._triton is not None:
            self._stopping = threading.Thread(target=self._triton.stop, name="flover-stop")
            self._stopping.start()


class _Front(FrontService):
    """Tells its owner, too, when the engine has failed."""

    failed: Callable[[str], None]

    def on_failed(self, message: str) -> None:
        super().on_failed(message)
        self.failed(message)


class _NoMetrics:
    """PyTriton has no way to add to its /metrics; `FloverEngine.metrics` asks the engine itself."""

    def on_leader(self, acknowledged: Metrics | None) -> None:
        """Nothing is written."""

    def on_metrics(self, metrics: Metrics) -> None:
        """Nothing is written."""

    def count(self, increments: dict[str, int]) -> None:
        """Nothing is written."""

    def on_engine_gone(self) -> None:
        """Nothing is written."""

    def close(self, timeout_s: float) -> bool:
        """Nothing is to be ended."""
        return True


def _start_guard() -> subprocess.Popen[bytes]:
    nothing = subprocess.DEVNULL
    command = [sys.executable, "-I", orphans.__file__, str(os.getpid())]
    return subprocess.Popen(command, stdin=nothing, stdout=nothing, stderr=nothing)


def _read_config(keywords: dict[str, Any]) -> ModelJson:
    for key in WITHOUT_EFFECT:
        if key in keywords:
            raise ConfigError(
                f"{key}: has no effect in a PyTriton program, which sends from its event loop; leave it out"
            )
    return parse_model_json(msgspec.json.encode(keywords, enc_hook=str), "FloverEngine")
