"""A front that does not run for a while as it loads: 24.10 gives it up, and the load must end all the same."""

from __future__ import annotations

import os
import signal
import sys
import time
import urllib.error
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from live_engine import fronts_of, is_ready
from live_server import LiveServer, StartServer, is_running, runtime_files, wait_for
from triton_client import ask, ids_of, post

EXPLICIT = ("--model-control-mode=explicit",)
SHORT = {"max_tokens": 12, "ignore_eos": True, "temperature": 0}


def slow_python(folder: Path, seconds: int) -> Path:
    """An interpreter for the engine that makes a load take some seconds."""
    wrapper = folder / "python"
    wrapper.write_text(f'#!/bin/sh\nsleep {seconds}\nexec {sys.executable} "$@"\n')
    wrapper.chmod(0o755)
    return wrapper


def is_up(server: LiveServer) -> bool:
    try:
        return is_ready(server, "v2/health/ready")
    except urllib.error.URLError:
        return False


def stop(process: int, seconds: float) -> None:
    os.kill(process, signal.SIGSTOP)
    time.sleep(seconds)
    os.kill(process, signal.SIGCONT)


def load(server: LiveServer) -> tuple[int, str]:
    return post(f"{server.http_url}/v2/repository/models/flover/load", {}, 120)


@contextmanager
def loading(server: LiveServer) -> Iterator[Future[tuple[int, str]]]:
    """A load that has asked its fronts several times how they do: from the second question on a front knows."""
    wait_for(lambda: is_up(server), timeout_s=60)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(load, server)
        wait_for(lambda: "started the engine process" in server.log(), timeout_s=60)
        time.sleep(3.5)
        yield asked


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["amid the load", "as it ends"])
def test_a_front_that_was_given_up_ends_so_that_the_load_fails(
    start_server: StartServer, tmp_path: Path, moment: str
) -> None:
    server = start_server({"engine_python": str(slow_python(tmp_path, 8))}, instances=2, control=EXPLICIT)
    with loading(server) as asked:
        front = next(pid for pid in fronts_of(server) if "flover_0_0" in Path(f"/proc/{pid}/cmdline").read_text())
        if moment == "as it ends":
            wait_for(lambda: "engine: importing" in server.log(), timeout_s=60)
        stop(front, 2.5)
        status, text = asked.result()
    assert status == 400 and "is not healthy" in text
    assert "Triton has given this instance up" in server.log()
    assert not is_running(front)
    wait_for(lambda: not server.descendants(), timeout_s=30)
    assert not runtime_files(server)
    assert load(server) == (200, "")
    assert len(ids_of(ask(server.grpc_url, [5], SHORT))) == 12


@pytest.mark.slow
def test_a_server_that_stands_still_for_long_finds_its_fronts_waiting(
    start_server: StartServer, tmp_path: Path
) -> None:
    """It asks nothing meanwhile, and has given nobody up."""
    server = start_server({"engine_python": str(slow_python(tmp_path, 25))}, instances=2, control=EXPLICIT)
    with loading(server) as asked:
        stop(server.process.pid, 15)
        assert asked.result() == (200, "")
    assert len(ids_of(ask(server.grpc_url, [5], SHORT))) == 12
    assert "given this instance up" not in server.log()
