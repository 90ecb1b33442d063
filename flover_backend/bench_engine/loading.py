"""Time to ready and memory of an engine in a process of its own, with a cold and then a warm cache of kernels.

The process is bench_engine/loading_child.py. Memory is what the device has less of since before it began.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from flover_backend.bench_engine import bars
from flover_backend.bench_engine.figures import BenchError, Line, judge
from flover_backend.bench_engine.session import Tell, free_device
from flover_backend.bench_engine.shapes import Shape

LIMIT_S = 300.0
READING = "weights"
"""The stage in which weights are read or made."""
GIB = float(1 << 30)


def load(shape: Shape, directory: Path, device: torch.device, load_format: str, tell: Tell) -> Iterator[Line]:
    """Two starts with one new kernel cache: cold, then warm; memory is measured at the second."""
    free_device(device)
    with tempfile.TemporaryDirectory(prefix="flover-kernels-") as cache:
        for temperature in ("cold", "warm"):
            with _Child(directory, device, load_format, cache) as child:
                ready = child.ready
                told = ", ".join(f"{stage} {s:.2f} s" for stage, s in ready["stages"].items())
                tell(f"{shape.title}, {temperature} kernel cache, weights {load_format}: {told}")
                yield _load_line(shape, temperature, load_format, ready, child.start_s)
                if temperature == "warm" and device.type == "cuda":
                    yield from _memory_lines(shape, child)


def _load_line(shape: Shape, temperature: str, load_format: str, ready: dict[str, Any], start_s: float) -> Line:
    beyond = sum(seconds for stage, seconds in ready["stages"].items() if stage != READING)
    weights = "random" if load_format == "random" else "read from safetensors"
    return judge(
        "load",
        shape.name,
        f"load to ready beyond the weights ({weights}, {ready['stages'].get(READING, 0.0):.1f} s), {temperature} cache",
        beyond,
        bars.LOAD[temperature] if shape.name == "13b" else None,
        "s",
        stages_s=ready["stages"],
        imports_s=ready["imports_s"],
        process_s=start_s,
    )


def _memory_lines(shape: Shape, child: _Child) -> Iterator[Line]:
    known = child.ready["weight_bytes"] + child.ready["kv_bytes"]
    for when in ("ready", "after a burst and a long prompt"):
        beyond = child.used_bytes() - known
        yield judge(
            "memory",
            shape.name,
            f"GPU memory beyond weights and KV, {when}, CUDA context included",
            beyond / GIB,
            bars.MEMORY,
            "GiB",
            weights_gib=child.ready["weight_bytes"] / GIB,
            kv_gib=child.ready["kv_bytes"] / GIB,
            used_gib=child.used_bytes() / GIB,
        )
        if when == "ready":
            child.go_on()


class _Child:
    """The process: started, ready, worked, ended."""

    def __init__(self, directory: Path, device: torch.device, load_format: str, cache: str) -> None:
        self._device, self._free_before = device, _free(device)
        command = [sys.executable, "-m", "flover_backend.bench_engine.loading_child", str(directory)]
        started = time.perf_counter()
        self._process = subprocess.Popen(
            [*command, device.type, load_format, repr(time.time())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"TRITON_CACHE_DIR": cache, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()
        try:
            self.ready = self._next()
        except BaseException:
            self._end()
            raise
        self.start_s = time.perf_counter() - started

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        assert self._process.stdin is not None
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def _next(self) -> dict[str, Any]:
        """The next line of JSON. Raises `BenchError` when the process ends or takes too long."""
        until = time.monotonic() + LIMIT_S
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                raise BenchError(f"the engine's process said nothing for {LIMIT_S:.0f} s") from None
            if not line:
                raise BenchError(f"the engine's process ended with status {self._process.wait()}")
            if line.startswith("{"):
                return dict(json.loads(line))

    def go_on(self) -> None:
        """Let it work, and wait until it has."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self._next()

    def used_bytes(self) -> int:
        """Of the device, since before the process began."""
        return self._free_before - _free(self._device)


def _free(device: torch.device) -> int:
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else 0
