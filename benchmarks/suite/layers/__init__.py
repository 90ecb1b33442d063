"""What a client sees of the engine: layers that serve a workload through a server, each a context manager.

    with open_layer("triton", "llama-demo", "auto", print) as layer:
        run = layer.run(workload)

Imports a layer's module when it is opened: the engine's interpreter may lack what clients need.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from benchmarks.suite.result import Run
from benchmarks.suite.workload import Workload
from flover_backend.errors import ConfigError

LAYERS = ("triton", "pytriton", "perf_analyzer", "triton-instances", "triton-dynamic")


class Layer(Protocol):
    """A server that runs, and a client of it."""

    def run(self, workload: Workload) -> Run:
        """Serve a workload; returns when its last request has ended."""


def open_layer(
    layer: str, model: str | Path, load_format: str, tell: Callable[[str], None], **settings: Any
) -> AbstractContextManager[Layer]:
    """`model`: a name of bench_engine/shapes.py (random weights), a bundled one, or a directory.

    `settings`: `instances`, `engine_python`, `processes`, `analyzer` (a binary's path), `mix`, and keys of model.json.
    Raises `ConfigError`, `ServerFailed`, `MeasurementFailed`.
    """
    from benchmarks.suite.layers.analyzer import PerfAnalyzerLayer
    from benchmarks.suite.layers.program import PyTritonLayer
    from benchmarks.suite.layers.server import TritonLayer
    from benchmarks.suite.layers.triton_own.layer import TritonDynamicLayer, TritonInstancesLayer

    kinds: dict[str, Any] = {
        "triton": TritonLayer,
        "pytriton": PyTritonLayer,
        "perf_analyzer": PerfAnalyzerLayer,
        "triton-instances": TritonInstancesLayer,
        "triton-dynamic": TritonDynamicLayer,
    }
    if layer not in kinds:
        raise ConfigError(f"layer {layer!r}; allowed: {', '.join(LAYERS)}")
    opened: AbstractContextManager[Layer] = kinds[layer](model, load_format, tell, **settings)
    return opened


def run_layer(
    layer: str, model: str | Path, load_format: str, workload: Workload, tell: Callable[[str], None], **settings: Any
) -> Run:
    """One workload on a server of its own."""
    with open_layer(layer, model, load_format, tell, **settings) as opened:
        return opened.run(workload)
