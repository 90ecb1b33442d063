"""Layer `triton`: the server of `flover serve`, with its defaults, and the suite's own generator."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.pa.run import Target
from benchmarks.suite.layers.client import generate, warm_up
from benchmarks.suite.layers.model import model_keys, model_name
from benchmarks.suite.load.calls import Mix
from benchmarks.suite.result import Run
from benchmarks.suite.workload import Workload
from flover_backend.cli_options import model_json
from flover_backend.server import ServerOptions, TritonServer


class TritonLayer:
    """Owns a tritonserver. `instances` None: as many fronts as `flover serve` has on this machine."""

    def __init__(
        self,
        model: str | Path,
        load_format: str,
        tell: Callable[[str], None],
        *,
        instances: int | None = None,
        processes: int | None = None,
        mix: Mix | None = None,
        log_file: Path | None = None,
        **keys: Any,
    ) -> None:
        self._model, self._load_format, self._tell = model, load_format, tell
        self._instances, self._processes, self._mix = instances, processes, mix
        self._log_file, self._keys = log_file, keys
        self._stack = ExitStack()
        self._server: TritonServer | None = None
        self._is_warm = False

    def __enter__(self) -> TritonLayer:
        started = time.monotonic()
        try:
            keys = self._stack.enter_context(model_keys(self._model, self._load_format, **self._keys))
            options = ServerOptions(
                config=model_json(keys), instances=self._instances, log_file=self._log_file, show=self._tell
            )
            self._server = self._stack.enter_context(TritonServer(options))
        except BaseException:
            self._stack.close()
            raise
        count = options.instance_count()
        self._tell(
            f"Triton serves {model_name(self._model)} with {count} fronts after {time.monotonic() - started:.1f} s"
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        self._server = None

    @property
    def server(self) -> TritonServer:
        """While it runs."""
        assert self._server is not None, "enter the layer first"
        return self._server

    @property
    def target(self) -> Target:
        """For any client."""
        return Target(self.server.grpc_url, self.server.options.name)

    def run(self, workload: Workload) -> Run:
        """With the suite's own generator. Raises `MeasurementFailed`."""
        model = model_name(self._model)
        if not self._is_warm:
            generate(self.target, warm_up(workload), "triton", model, self._processes)
            self._is_warm = True
        return generate(self.target, workload, "triton", model, self._processes, self._mix)
