"""Layer `perf_analyzer`: NVIDIA's own client, as a judge from outside, on a server of `flover serve`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.suite.layers.client import Analyzer, generate, warm_up
from benchmarks.suite.layers.model import model_name
from benchmarks.suite.layers.server import TritonLayer
from benchmarks.suite.result import Run
from benchmarks.suite.workload import Workload


class PerfAnalyzerLayer:
    """On a server of its own, or on the one of a `TritonLayer` that runs (`server`), which then outlives this."""

    def __init__(
        self,
        model: str | Path,
        load_format: str,
        tell: Callable[[str], None],
        *,
        server: TritonLayer | None = None,
        analyzer: Path | None = None,
        **settings: Any,
    ) -> None:
        self._model, self._tell, self._path = model, tell, analyzer
        self._is_mine = server is None
        self._layer = server or TritonLayer(model, load_format, tell, **settings)
        self._stack = ExitStack()
        self._analyzer: Analyzer | None = None
        self._is_warm = False

    def __enter__(self) -> PerfAnalyzerLayer:
        try:
            libraries = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="flover-perf-"))
            self._analyzer = Analyzer.find(self._path, Path(libraries), self._tell)
            if self._is_mine:
                self._stack.enter_context(self._layer)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def run(self, workload: Workload) -> Run:
        """Raises `MeasurementFailed`: an error response to any request ends perf_analyzer's run."""
        assert self._analyzer is not None, "enter the layer first"
        target, model = self._layer.target, model_name(self._model)
        if not self._is_warm:
            generate(target, warm_up(workload), "perf_analyzer", model, 1)
            self._is_warm = True
        return self._analyzer.run(target, workload, model)
