"""Starts bare_child.py with the interpreter that has torch, and reads what it measured."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

import benchmarks
from benchmarks.pa.errors import MeasurementFailed
from benchmarks.suite.layers.model import model_keys
from benchmarks.suite.workload import Workload
from flover_backend.lifeline import end_with_parent

ROOT = Path(benchmarks.__file__).resolve().parents[1]
CHILD = "benchmarks.through_triton.bare_child"
PRODUCT_ROWS = (1, 32, 256)


class BareRun(msgspec.Struct):
    """One workload on the engine."""

    wall_s: float
    """From the first request until the last token."""
    tokens: int
    iterations: int
    first_p50_ms: float


class Bare(msgspec.Struct):
    """What the child measured."""

    machine: dict[str, Any]
    runs: dict[str, list[BareRun]]
    """By workload, one each repeat."""
    copy_bandwidth: float = 0.0
    """Bytes a second, read and written; 0: not probed."""
    products_13b_ms: dict[int, float] = {}
    """By rows; empty on a CPU, and where not probed."""


def measure_bare(
    model: str | Path,
    workloads: Sequence[tuple[Workload, int]],
    tell: Callable[[str], None],
    *,
    probes: bool = True,
    **keys: Any,
) -> Bare:
    """`workloads` with their repeats, on one engine with the settings `keys`. Raises `MeasurementFailed`."""
    load_format = keys.pop("load_format", "auto")
    with tempfile.TemporaryDirectory(prefix="flover-bare-") as folder, model_keys(model, load_format, **keys) as found:
        python = found.pop("engine_python", sys.executable)
        spec, result = Path(folder, "spec.json"), Path(folder, "result.json")
        told = {
            "keys": found,
            "probes": probes,
            "product_rows": PRODUCT_ROWS,
            "workloads": [
                {
                    "name": one.name,
                    "repeats": repeats,
                    "requests": [(request.at, request.prompt, request.new_tokens) for request in one.requests],
                }
                for one, repeats in workloads
            ],
        }
        spec.write_bytes(msgspec.json.encode(told))
        _run([python, "-m", CHILD, str(spec), str(result)], tell)
        return msgspec.json.decode(result.read_bytes(), type=Bare)


def _run(command: list[str], tell: Callable[[str], None]) -> None:
    last: list[str] = []
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # a terminal's Ctrl-C is this process's to handle
        preexec_fn=end_with_parent(os.getpid()),  # noqa: PLW1509 (from the main thread, nothing holds a lock)
    ) as process:
        assert process.stdout is not None, "stdout=PIPE"
        try:
            for line in process.stdout:
                last = [*last[-14:], line.rstrip()]
                tell(line.rstrip())
        except BaseException:
            process.kill()
            process.wait()  # its GPU memory is free then
            raise
    if process.returncode:
        raise MeasurementFailed("\n".join([f"the bare engine's process ended with {process.returncode}:", *last]))
