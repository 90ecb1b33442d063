"""Layer `pytriton`: a PyTriton program with the engine bound in it, in a process of its own."""

from __future__ import annotations

import json
import secrets
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import benchmarks
from benchmarks.pa.errors import MeasurementFailed
from benchmarks.pa.run import Target
from benchmarks.suite.layers.client import generate, warm_up
from benchmarks.suite.layers.model import model_keys, model_name
from benchmarks.suite.load.calls import Mix
from benchmarks.suite.result import Run
from benchmarks.suite.workload import Workload

ROOT = Path(benchmarks.__file__).resolve().parents[1]
PROGRAM = "benchmarks.suite.layers.pytriton_program"
HEADER = "triton-grpc-protocol-triton-access-token"
START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 60.0


class PyTritonLayer:
    """Owns the program's process; it ends when its input is closed."""

    def __init__(
        self,
        model: str | Path,
        load_format: str,
        tell: Callable[[str], None],
        *,
        processes: int | None = None,
        mix: Mix | None = None,
        **keys: Any,
    ) -> None:
        self._model, self._load_format, self._tell = model, load_format, tell
        self._processes, self._mix, self._keys = processes, mix, keys
        self._stack = ExitStack()
        self._process: subprocess.Popen[str] | None = None
        self._port, self._token, self._is_warm = 0, secrets.token_hex(8), False

    def __enter__(self) -> PyTritonLayer:
        started = time.monotonic()
        try:
            keys = self._stack.enter_context(model_keys(self._model, self._load_format, **self._keys))
            # NOTE: sockets lie in PYTRITON_HOME, whose paths may have 107 characters.
            home = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="pyt-"))
            self._start(keys | {"home": home, "token": self._token})
        except BaseException:
            self._close()
            raise
        self._tell(f"PyTriton serves {model_name(self._model)} after {time.monotonic() - started:.1f} s")
        return self

    def _start(self, keys: dict[str, Any]) -> None:
        self._log = Path(keys["home"], "log.txt")
        with self._log.open("wb") as log:
            self._process = process = subprocess.Popen(
                [sys.executable, "-m", PROGRAM],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps(keys) + "\n")
        process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            line = process.stdout.readline() if selector.select(START_TIMEOUT_S) else ""
        if not line.startswith("ready "):
            said = "\n".join(self._log.read_text(errors="replace").splitlines()[-8:])
            raise MeasurementFailed(f"the PyTriton program did not start; it printed {line!r} and\n{said}")
        self._port = int(line.split()[1])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        process, self._process = self._process, None
        try:
            if process is not None:
                assert process.stdin is not None
                process.stdin.close()
                try:
                    process.wait(STOP_TIMEOUT_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        finally:
            self._stack.close()

    @property
    def pid(self) -> int:
        """Of the program, the parent of its tritonserver and its engine."""
        assert self._process is not None, "enter the layer first"
        return self._process.pid

    @property
    def target(self) -> Target:
        """For any client; perf_analyzer asks for statistics, which PyTriton guards with a header."""
        return Target(f"127.0.0.1:{self._port}", "flover", (f"{HEADER}:{self._token}",))

    def run(self, workload: Workload) -> Run:
        """With the suite's own generator. Raises `MeasurementFailed`."""
        model = model_name(self._model)
        if not self._is_warm:
            generate(self.target, warm_up(workload), "pytriton", model, self._processes)
            self._is_warm = True
        return generate(self.target, workload, "pytriton", model, self._processes, self._mix)
