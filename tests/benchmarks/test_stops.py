"""Measurements that are stopped while an engine runs: nothing of them is left, and the exit status tells the signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHILD = "benchmarks.through_triton.bare_child"
ARGUMENTS = {
    "benchmarks.through_triton": ["--only", "burst", "--streams", "1", "--repeats", "500"],
    "benchmarks.triton_own": [],
    "benchmarks": ["--device", "cpu", "--ways", "serial", "--requests", "32", "--total", "512", "--minutes", "9"],
}


@pytest.mark.parametrize(
    ("program", "number", "status"),
    [
        ("benchmarks.through_triton", signal.SIGTERM, 143),
        ("benchmarks.through_triton", signal.SIGINT, 130),
        ("benchmarks.triton_own", signal.SIGTERM, 143),
        ("benchmarks", signal.SIGTERM, 143),
        ("benchmarks", signal.SIGINT, 130),
    ],
)
def test_a_stopped_measurement_leaves_nothing(program: str, number: int, status: int, tmp_path: Path) -> None:
    process, engine = start(program, tmp_path)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == status, out + err
    assert err.count("stopped") == len(err.splitlines()) and "Traceback" not in out, out + err
    assert not engine or not Path("/proc", str(engine)).exists()
    assert not list((tmp_path / "tmp").glob("flover-*"))


@pytest.mark.parametrize("ways", ["fused", "instances"])
def test_a_stop_in_the_middle_of_a_run_is_no_failure(ways: str, tmp_path: Path) -> None:
    sizes = ["--workloads", "burst", "--requests", "32", "--total", "1024", "--minutes", "9"]
    process, _ = start("benchmarks", tmp_path, ["--device", "cpu", "--ways", ways, *sizes])
    assert process.stdout is not None
    while " runs, about " not in (line := process.stdout.readline()):
        assert line, process.communicate()
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err.strip() == "python -m benchmarks: stopped", out + err
    assert "stopped: what was measured so far is kept" in out and "FAILED" not in out, out


def test_the_engine_ends_with_a_measurement_that_is_killed(tmp_path: Path) -> None:
    process, engine = start("benchmarks.through_triton", tmp_path)
    process.kill()
    process.communicate(timeout=120)
    until(lambda: not Path("/proc", str(engine)).exists())


def start(program: str, folder: Path, arguments: Sequence[str] = ()) -> tuple[subprocess.Popen[str], int]:
    """The command, once its engine's process runs; that one's id, or 0 for a command that has the engine in its own."""
    (folder / "tmp").mkdir()
    command = [
        sys.executable,
        "-m",
        program,
        "--model",
        "llama-demo",
        *(arguments or ARGUMENTS[program]),
        "--out",
        str(folder / "out"),
    ]
    env = os.environ | {"TMPDIR": str(folder / "tmp")}
    process = subprocess.Popen(
        command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    own = program == "benchmarks"
    until(lambda: own or bool(children(process.pid)))
    engine = 0 if own else children(process.pid)[0]
    assert process.stdout is not None and process.stdout.readline(), (
        process.communicate()
    )  # the machine: torch is there
    return process, engine


def children(pid: int) -> list[int]:
    """Engines that a process has started."""
    try:
        found = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return [one for one in found if CHILD in Path(f"/proc/{one}/cmdline").read_text()]
    except FileNotFoundError:
        return []


def until(holds: Callable[[], bool]) -> None:
    """Raises `AssertionError` where it never does."""
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline, "waited for 120 s"
        time.sleep(0.02)
