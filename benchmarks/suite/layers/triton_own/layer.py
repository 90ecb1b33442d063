"""Starts a tritonserver with the plain model, and sends it the suite's requests."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import benchmarks
from benchmarks.pa.run import Target
from benchmarks.suite.layers.client import warm_up
from benchmarks.suite.layers.model import model_keys, model_name
from benchmarks.suite.load.calls import calls_of
from benchmarks.suite.load.generator import run_of, send_calls
from benchmarks.suite.result import Run
from benchmarks.suite.workload import Workload
from flover_backend.server import ServerOptions, TritonServer

ROOT = Path(benchmarks.__file__).resolve().parents[1]
CHILD = "benchmarks.suite.layers.triton_own.engine_child"
MODEL_PY = Path(__file__).with_name("model.py")
NAME = "plain"
KV_TOKENS_A_ROW = 2048
"""Of each engine, so that several share a GPU."""


class PlainServer(TritonServer):
    """A tritonserver with the plain model instead of this package's backend."""

    def __init__(
        self, options: ServerOptions, spec: dict[str, Any], max_batch_size: int, delay_ms: float | None
    ) -> None:
        super().__init__(options)
        self._spec, self._max_batch_size, self._delay_ms = spec, max_batch_size, delay_ms

    def lay_out_models(self) -> None:
        """The plain model's folder."""
        version = self.folder.resolve() / "models" / self.options.name / "1"
        version.mkdir(parents=True)
        shutil.copyfile(MODEL_PY, version / "model.py")
        (version / "spec.json").write_text(json.dumps(self._spec))
        config = plain_config(self.options.instance_count(), self._max_batch_size, self._delay_ms)
        (version.parent / "config.pbtxt").write_text(config)


def plain_config(count: int, max_batch_size: int, delay_ms: float | None) -> str:
    """config.pbtxt; `delay_ms` None: without dynamic batching. Prompts of several lengths share a batch."""
    batching = ""
    if delay_ms is not None:
        batching = f"dynamic_batching {{ max_queue_delay_microseconds: {round(delay_ms * 1000)} }}\n"
    return f"""backend: "python"
max_batch_size: {max_batch_size}
input [
  {{ name: "input_ids", data_type: TYPE_INT32, dims: [ -1 ], allow_ragged_batch: true }},
  {{ name: "max_tokens", data_type: TYPE_INT32, dims: [ 1 ] }}
]
output [ {{ name: "output_ids", data_type: TYPE_INT32, dims: [ -1 ] }} ]
instance_group [ {{ kind: KIND_MODEL, count: {count} }} ]
{batching}"""


class PlainLayer:
    """Owns the server. Engines have as many rows as a batch, and KV for them alone."""

    way = layer = ""

    def __init__(
        self,
        model: str | Path,
        load_format: str,
        tell: Callable[[str], None],
        *,
        count: int,
        max_batch_size: int,
        delay_ms: float | None,
        processes: int | None = None,
        log_file: Path | None = None,
        **keys: Any,
    ) -> None:
        self._model, self._load_format, self._tell = model, load_format, tell
        self._count, self._max_batch_size, self._delay_ms = count, max_batch_size, delay_ms
        self._processes, self._log_file = processes, log_file
        tokens = KV_TOKENS_A_ROW * max_batch_size
        self._keys = {"max_rows": max_batch_size, "kv_cache_tokens": tokens} | keys
        self._stack = ExitStack()
        self._server: PlainServer | None = None
        self._is_warm = False

    @property
    def settings(self) -> dict[str, Any]:
        """For the results."""
        raise NotImplementedError

    def __enter__(self) -> PlainLayer:
        started = time.monotonic()
        try:
            keys = self._stack.enter_context(model_keys(self._model, self._load_format, **self._keys))
            python = keys.pop("engine_python", sys.executable)
            spec = {"python": python, "child": CHILD, "root": str(ROOT), "keys": keys}
            options = ServerOptions(name=NAME, instances=self._count, log_file=self._log_file, show=self._tell)
            self._server = PlainServer(options, spec, self._max_batch_size, self._delay_ms)
            self._stack.enter_context(self._server)
        except BaseException:
            self._stack.close()
            raise
        told = ", ".join(f"{name} {value:g}" for name, value in self.settings.items())
        self._tell(f"{self.layer}, {told}: ready after {time.monotonic() - started:.1f} s")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def run(self, workload: Workload) -> Run:
        """With the suite's own generator; a request's tokens come all at its end. Raises `MeasurementFailed`."""
        assert self._server is not None, "enter the layer first"
        target = Target(self._server.grpc_url, NAME)
        if not self._is_warm:  # every instance, and every size of a batch that is met at once
            for _ in range(2):
                self._send(target, warm_up(workload, max(self._count, self._max_batch_size)))
            self._is_warm = True
        run = self._send(target, workload)
        run.way = self.way
        return run

    def _send(self, target: Target, workload: Workload) -> Run:
        calls = [replace(call, streams=False, batched=True) for call in calls_of(workload)]
        answers = send_calls(target, calls, self._processes)
        return run_of(workload, calls, answers, self.layer, model_name(self._model), self.settings)


class TritonInstancesLayer(PlainLayer):
    """`instance_group` with `instances`, each with an engine and weights of its own, and one request at a time."""

    way, layer = "instances", "triton-instances"

    def __init__(
        self, model: str | Path, load_format: str, tell: Callable[[str], None], *, instances: int = 4, **settings: Any
    ) -> None:
        super().__init__(model, load_format, tell, count=instances, max_batch_size=1, delay_ms=None, **settings)

    @property
    def settings(self) -> dict[str, Any]:
        """For the results."""
        return {"instances": self._count}


class TritonDynamicLayer(PlainLayer):
    """`dynamic_batching` that waits `window_ms` for up to `batch_size` requests, and one instance."""

    way, layer = "dynamic", "triton-dynamic"

    def __init__(
        self,
        model: str | Path,
        load_format: str,
        tell: Callable[[str], None],
        *,
        window_ms: float = 50.0,
        batch_size: int = 32,
        **settings: Any,
    ) -> None:
        super().__init__(model, load_format, tell, count=1, max_batch_size=batch_size, delay_ms=window_ms, **settings)

    @property
    def settings(self) -> dict[str, Any]:
        """For the results."""
        return {"window_ms": self._delay_ms, "batch_size": self._max_batch_size}
