"""What the device can do, in the same run: copy bandwidth, dense products, the weight products of a model's iteration.

On a GPU work is timed as replays of a CUDA graph between events; on a CPU with a wall clock, for the tests.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from flover_backend.bench_engine.figures import Spread
from flover_backend.bench_engine.shapes import Shape

COPY_BYTES = {"cuda": 4 << 30, "cpu": 1 << 22}
REPEATS = 15


def copy_bandwidth(device: torch.device) -> Spread:
    """Bytes a second, read and written, of a large copy on the device."""
    size = COPY_BYTES[device.type]
    source = torch.randn(size // 4, device=device)
    target = torch.empty_like(source)
    # NOTE: launched, not replayed: in a graph a copy goes to a copy engine, at two thirds of the rate.
    if device.type == "cuda":
        seconds = replay_seconds(lambda: target.copy_(source), REPEATS)
    else:
        seconds = sample_seconds(lambda: target.copy_(source), device)
    return Spread.of([2 * size / second for second in seconds])


def dense_rate(device: torch.device, dtype: torch.dtype, size: int) -> Spread:
    """Floating-point operations a second of a product of random [size, size] matrices."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    seconds = sample_seconds(lambda: left @ right, device)
    return Spread.of([2 * size**3 / second for second in seconds])


class Products:
    """Owns weights of a model's size, distinct for every product, and times them all at a number of rows."""

    def __init__(self, shape: Shape, dtype: torch.dtype, device: torch.device) -> None:
        self._device, self._dtype = device, dtype
        *layers, head = (self._weight(*sizes) for sizes in shape.products())
        self._layers, self._head = layers, head

    def _weight(self, rows: int, columns: int) -> torch.Tensor:
        weight = torch.empty(rows, columns, dtype=self._dtype, device=self._device)
        return weight.normal_(0.0, columns**-0.5)

    def seconds(self, rows: int, head_rows: int | None = None) -> Spread:
        """One graph of every product of an iteration of `rows` tokens, of which `head_rows` (default all) sample."""
        inputs = {w.shape[1]: self._input(rows, w.shape[1]) for w in self._layers}
        sampled = self._input(rows if head_rows is None else head_rows, self._head.shape[1])

        def iteration() -> None:
            for weight in self._layers:
                F.linear(inputs[weight.shape[1]], weight)
            F.linear(sampled, self._head)

        return Spread.of(sample_seconds(iteration, self._device))

    def _input(self, rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, device=self._device).to(self._dtype)

    def operations(self, rows: int, head_rows: int) -> int:
        """Floating-point operations of `seconds` with the same arguments."""
        return 2 * (rows * sum(w.numel() for w in self._layers) + head_rows * self._head.numel())


def sample_seconds(work: Callable[[], object], device: torch.device, repeats: int = REPEATS) -> list[float]:
    """Seconds of each of `repeats` runs of `work`, after two more."""
    if device.type != "cuda":
        return _wall_seconds(work, 3)
    with torch.inference_mode():
        graph = captured(work)
        return replay_seconds(graph.replay, repeats)


def captured(work: Callable[[], object]) -> torch.cuda.CUDAGraph:
    """`work` as a graph, after it ran once (libraries make their handles then)."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph


def replay_seconds(replay: Callable[[], object], repeats: int) -> list[float]:
    """Each between events of its own, enqueued ahead so that the host adds nothing."""
    for _ in range(2):
        replay()
    events = [
        (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))  # type: ignore[no-untyped-call]
        for _ in range(repeats)
    ]
    for start, end in events:
        start.record()
        replay()
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) / 1e3 for start, end in events]


def _wall_seconds(work: Callable[[], object], repeats: int) -> list[float]:
    seconds = []
    with torch.inference_mode():
        for _ in range(repeats + 1):
            started = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - started)
    return seconds[1:]
