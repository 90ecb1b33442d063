"""`flover top` on a live server, as a program reads it: gauges while requests run, latencies after they ended."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import Any

import pytest
from live_metrics import wait_idle, wait_running
from live_server import LiveServer, StartServer, wait_for
from triton_client import Call, arrays_of, ask, post

FLOVER = [sys.executable, "-m", "flover_backend.cli", "top"]


def run(server: LiveServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*FLOVER, "--url", f"127.0.0.1:{server.metrics_port}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def look(server: LiveServer) -> dict[str, Any]:
    done = run(server, "--once", "--json", "--interval", "0.7", "--model", "flover/1")
    assert (done.returncode, done.stderr) == (0, "")
    (model,) = json.loads(done.stdout)["models"]
    return dict(model)


def test_requests_in_flight_and_after(small_server: LiveServer) -> None:
    """Two rows are taken, two requests wait; then all is over."""
    wait_idle(small_server)
    endless = arrays_of([5, 6, 7], {"max_tokens": 2000, "ignore_eos": True}, stream=True)
    calls = [Call(small_server.grpc_url, endless) for _ in range(4)]
    wait_running(small_server, 2, waiting=2)
    found = look(small_server)
    assert (found["running"], found["waiting"], found["waiting_tokens"], found["max_rows"]) == (2, 2, 6, 2)
    assert found["rows"] == found["window"]["rows"] == 2
    assert found["kv_blocks_used"] > 0
    assert found["window"]["decode_tokens_per_s"] > 0
    assert 0 < found["window"]["inter_token_latency"]["p50"] <= found["window"]["inter_token_latency"]["p99"]
    for call in calls:
        call.cancel()
    ask(small_server.grpc_url, [5], {"max_tokens": 9, "ignore_eos": True})
    wait_idle(small_server)
    found = look(small_server)
    assert (found["running"], found["waiting"], found["rows"], found["kv_blocks_used"]) == (0, 0, 0, 0)
    assert found["since_load"]["finished"]["cancelled"] >= 4
    assert found["since_load"]["time_to_first_token"]["count"] >= 3


def test_what_is_not_there(server: LiveServer) -> None:
    done = run(server, "--once", "--model", "nope")
    assert (done.returncode, done.stdout) == (1, "")
    assert "has no model nope; it has flover/1" in done.stderr
    wrong = subprocess.run(
        [*FLOVER, "--once", "--url", server.http_url], capture_output=True, text=True, timeout=60, check=False
    )
    assert wrong.returncode == 1
    assert "HTTP 404; Triton serves them on port 8002" in wrong.stderr


@pytest.mark.slow
def test_two_models(start_server: StartServer) -> None:
    """One at work, one idle; both by default, one by its name, one that is unloaded no more."""
    server = start_server({"max_rows": 4})
    server.wait_ready()
    models = server.folder / "models"
    shutil.copytree(models / "flover", models / "chat")
    config = models / "chat" / "config.pbtxt"
    config.write_text(config.read_text().replace('name: "flover"', 'name: "chat"'))
    assert post(f"{server.http_url}/v2/repository/models/chat/load", {})[0] == 200
    call = Call(server.grpc_url, arrays_of([5, 6], {"max_tokens": 2000, "ignore_eos": True}, stream=True), "chat")
    call.next()
    wait_for(lambda: "running 1" in run(server, "--once", "--model", "chat").stdout)
    done = run(server, "--once", "--json")
    found = {model["model"]: model for model in json.loads(done.stdout)["models"]}
    assert list(found) == ["chat", "flover"]
    assert (found["chat"]["running"], found["flover"]["running"]) == (1, 0)
    assert found["flover"]["window"]["decode_tokens"] == 0 < found["chat"]["window"]["decode_tokens"]
    call.cancel()
    assert post(f"{server.http_url}/v2/repository/models/chat/unload", {})[0] == 200
    wait_for(lambda: "has no model chat; it has flover/1" in run(server, "--once", "--model", "chat").stderr, 30)
