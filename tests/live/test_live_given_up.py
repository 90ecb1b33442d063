"""A front that does not run for a while as it loads: 24.10 gives it up, and the load must end all the same."""

from __future__ import annotations

import os
import signal
import sys
import time
import urllib.error
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from live_engine import fronts_of, is_ready
from live_server import LiveServer, StartServer, is_running, runtime_files, wait_for
from triton_client import ask, ids_of, post

LOAD_S = 8
SHORT = {"max_tokens": 12, "ignore_eos": True, "temperature": 0}


def slow_python(folder: Path) -> Path:
    """An interpreter for the engine that makes a load take some seconds."""
    wrapper = folder / "python"
    wrapper.write_text(f'#!/bin/sh\nsleep {LOAD_S}\nexec {sys.executable} "$@"\n')
    wrapper.chmod(0o755)
    return wrapper


def is_up(server: LiveServer) -> bool:
    try:
        return is_ready(server, "v2/health/ready")
    except urllib.error.URLError:
        return False


def stop_a_front_that_loads(server: LiveServer) -> int:
    """For longer than 24.10 waits, but not before it has asked several times how the front does."""
    wait_for(lambda: "started the engine process" in server.log(), timeout_s=60)
    front = next(pid for pid in fronts_of(server) if "flover_0_0" in Path(f"/proc/{pid}/cmdline").read_text())
    time.sleep(3.5)
    os.kill(front, signal.SIGSTOP)
    time.sleep(2.5)
    os.kill(front, signal.SIGCONT)
    return front


@pytest.mark.slow
def test_a_front_that_was_given_up_ends_so_that_the_load_fails(start_server: StartServer, tmp_path: Path) -> None:
    control = ("--model-control-mode=explicit",)
    server = start_server({"engine_python": str(slow_python(tmp_path))}, instances=2, control=control)
    wait_for(lambda: is_up(server), timeout_s=60)
    url = f"{server.http_url}/v2/repository/models/flover/load"
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(post, url, {}, 120)
        front = stop_a_front_that_loads(server)
        status, text = load.result()
    assert status == 400 and "is not healthy" in text
    assert "Triton has given this instance up" in server.log()
    assert not is_running(front)
    wait_for(lambda: not server.descendants(), timeout_s=30)
    assert not runtime_files(server)
    status, text = post(url, {}, 120)
    assert status == 200, text
    assert len(ids_of(ask(server.grpc_url, [5], SHORT))) == 12
