"""CUDA graphs: a function's kernels recorded once and launched together ever after.

On a CPU (Triton's interpreter, in tests) nothing is recorded: each replay calls the function.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

import torch

T = TypeVar("T")


class Recorded(Generic[T]):
    """`replay` launches the function's kernels and returns what it returned: the same tensors, written anew."""

    def __init__(self, replay: Callable[[], T]) -> None:
        self.replay = replay


class GraphRecorder:
    """Records on one stream, all graphs into one memory pool: they never run at the same time."""

    def __init__(self, device: torch.device) -> None:
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def warm(self, function: Callable[[], object]) -> None:
        """Run a function that is never recorded, so that its kernels are compiled and its memory is there."""
        if self.stream is not None:
            self._follow()
            with torch.cuda.stream(self.stream):
                function()

    def record(self, function: Callable[[], T]) -> Recorded[T]:
        """Run `function` once, so that its kernels are compiled, then record it."""
        if self.stream is None:
            return Recorded(function)
        self._follow()
        with torch.cuda.stream(self.stream):
            function()
            self.stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                result = function()
            except BaseException:
                with suppress(RuntimeError):  # a broken capture's end raises too, and would hide why it broke
                    graph.capture_end()
                raise
            graph.capture_end()

        def replay() -> T:
            graph.replay()
            return result

        return Recorded(replay)

    def _follow(self) -> None:
        """Let the stream wait for what made the tensors that functions read: it waits for no other by itself."""
        assert self.stream is not None
        self.stream.wait_stream(torch.cuda.current_stream(self.stream.device))
