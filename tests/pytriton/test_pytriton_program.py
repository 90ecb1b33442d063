"""A PyTriton program of its own, the example's: how it serves, how it ends, and that it leaves nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from live_server import ROOT, command_line, descendants_of, free_ports, is_running, wait_for
from pytriton_host import contents, traces_of
from triton_client import Call, arrays_of, ask, text_of

EXAMPLES = ROOT / "examples" / "pytriton"
PROMPT = "In the beginning"
LONG = {"max_tokens": 2000, "ignore_eos": True}
TIMEOUT_S = 90


class Program:
    """server.py, running: its output goes to `folder`, PyTriton's files to `home`."""

    def __init__(self, folder: Path, home: str) -> None:
        http_port, grpc_port, metrics_port = free_ports(3)
        ports = [f"--http-port={http_port}", f"--grpc-port={grpc_port}", f"--metrics-port={metrics_port}"]
        self.log_path = folder / "program.log"
        environment = os.environ | {"PYTRITON_HOME": home, "PYTHONUNBUFFERED": "1"}
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(EXAMPLES / "server.py"), *ports],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=folder,
                start_new_session=True,
            )
        self.pids: list[int] = []
        self.grpc_url = f"127.0.0.1:{grpc_port}"
        self._ready_url = f"http://127.0.0.1:{http_port}/v2/models/flover/ready"

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def wait_ready(self) -> None:
        wait_for(lambda: self.process.poll() is not None or self._is_ready(), TIMEOUT_S)
        assert self.process.poll() is None, self.log()[-3000:]
        self.pids = descendants_of(self.process.pid)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(self._ready_url, timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def kill_next_engine(self) -> bool:
        """Each engine that comes; never true."""
        for pid in descendants_of(self.process.pid):
            if "flover_backend.engine.process" in command_line(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        return False

    def engine_pid(self) -> int:
        (pid,) = [
            pid for pid in descendants_of(self.process.pid) if "flover_backend.engine.process" in command_line(pid)
        ]
        return pid


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    # NOTE: PyTriton's sockets lie in its home, and a socket's path is at most 107 bytes: tmp_path is too long.
    with tempfile.TemporaryDirectory(prefix="flover-", ignore_cleanup_errors=True) as home:
        program = Program(tmp_path, home)
        try:
            program.wait_ready()
            yield program
        finally:
            program.process.kill()
            program.process.wait()
            for pid in filter(is_running, program.pids):
                os.kill(pid, signal.SIGKILL)
            for path in traces_of(program.process.pid):
                path.unlink(missing_ok=True)


@contextmanager
def leaving_nothing(program: Program) -> Iterator[None]:
    """Its processes end and its files go, in whatever way the program ends in the block."""
    assert len(program.pids) >= 3, "a tritonserver, a stub, an engine"
    assert len(traces_of(program.process.pid)) >= 2, "a region of the stub's, files of the engine's"
    yield
    program.process.wait(TIMEOUT_S)
    wait_for(lambda: not any(is_running(pid) for pid in program.pids), TIMEOUT_S)
    assert not traces_of(program.process.pid)


@pytest.mark.slow
def test_the_example_answers_and_leaves_nothing(program: Program) -> None:
    client = [sys.executable, str(EXAMPLES / "client.py"), program.grpc_url, PROMPT]
    done = subprocess.run(client, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    (whole,) = contents(
        ask(program.grpc_url, PROMPT, {"max_tokens": 40, "temperature": 0}, exclude_input_in_output=True)
    )
    assert done.stdout == whole.outputs["text_output"][0].decode() + "\n"
    with leaving_nothing(program):
        program.process.send_signal(signal.SIGTERM)
    assert program.process.returncode == 0, program.log()[-3000:]


@pytest.mark.slow
def test_a_stream_is_finished_before_the_program_ends(program: Program) -> None:
    call = Call(program.grpc_url, arrays_of(PROMPT, {"max_tokens": 300, "ignore_eos": True}, stream=True))
    call.next()
    with leaving_nothing(program):
        program.process.send_signal(signal.SIGINT)
        answers = contents(call.rest())
    assert answers and text_of(answers)
    assert program.process.returncode == 0, program.log()[-3000:]


@pytest.mark.slow
def test_an_engine_that_dies_too_often_ends_the_program(program: Program) -> None:
    calls = [Call(program.grpc_url, arrays_of(PROMPT, LONG, stream=True)) for _ in range(4)]
    for call in calls:
        call.next()
    with leaving_nothing(program):
        os.kill(program.engine_pid(), signal.SIGKILL)
        for call in calls:
            error = call.rest()[-1].error
            assert "the engine has failed: the engine process" in error and error.endswith(" [INTERNAL]\n")
        wait_for(
            lambda: program.kill_next_engine() or program.process.poll() is not None, TIMEOUT_S
        )  # restarts used up
    assert program.process.returncode == 1
    assert "EngineFailed: the engine has failed" in program.log().splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("at_work", [False, True])
def test_a_program_that_is_killed_leaves_nothing(program: Program, at_work: bool) -> None:
    if at_work:
        Call(program.grpc_url, arrays_of(PROMPT, LONG, stream=True)).next()
    with leaving_nothing(program):
        program.process.kill()
