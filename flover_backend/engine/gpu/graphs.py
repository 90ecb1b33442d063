"""CUDA graphs: a function's kernels recorded once and launched together ever after.

On a CPU (Triton's interpreter, in tests) a recorded function is simply called again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch

T = TypeVar("T")


class Recorded(Generic[T]):
    """`result` is what the function returned: tensors that each `replay` writes anew."""

    def __init__(self, result: T, replay: Callable[[], None]) -> None:
        self.result = result
        self.replay = replay


class GraphRecorder:
    """Records on one stream, all graphs into one memory pool: they never run at the same time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def record(self, function: Callable[[], T]) -> Recorded[T]:
        """Run `function` once, so that its kernels are compiled, then record it."""
        if self._device.type != "cuda":
            return _called_again(function)
        with torch.cuda.stream(self.stream):
            function()
            torch.cuda.current_stream().synchronize()
            graph = torch.cuda.CUDAGraph()
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                result = function()
            finally:
                graph.capture_end()
        return Recorded(result, graph.replay)


def _called_again(function: Callable[[], T]) -> Recorded[T]:
    recorded = Recorded(function(), lambda: None)

    def replay() -> None:
        recorded.result = function()

    recorded.replay = replay
    return recorded
