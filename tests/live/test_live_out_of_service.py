"""A model whose engine is gone for good, beside what was loaded since; and what /metrics says of engines in vain."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from live_engine import engine_of, fronts_of, is_ready
from live_metrics import series, wait_running
from live_server import StartServer, runtime_files, wait_for
from triton_client import Call, arrays_of, ask, ids_of, post

LONG = {"max_tokens": 2000, "ignore_eos": True, "temperature": 0}
SHORT = {"max_tokens": 12, "ignore_eos": True, "temperature": 0}


@pytest.mark.slow
def test_a_front_that_wakes_late_leaves_what_was_loaded_meanwhile_in_service(start_server: StartServer) -> None:
    server = start_server({"max_rows": 2, "engine_restarts": 0}, instances=2)
    server.wait_ready()
    late = fronts_of(server)[1]
    calls = [
        Call(server.grpc_url, arrays_of([9, 9], LONG)) for _ in range(12)
    ]  # Triton waits for a front that has some
    wait_running(server, 2, waiting=10)
    os.kill(late, signal.SIGSTOP)
    os.kill(engine_of(server), signal.SIGKILL)
    wait_for(lambda: not is_ready(server))
    status, text = post(f"{server.http_url}/v2/repository/models/flover/load", {})
    assert status == 200, text
    os.kill(late, signal.SIGCONT)
    assert all(call.rest()[-1].error.endswith("[INTERNAL]") for call in calls)
    wait_for(lambda: late not in fronts_of(server), timeout_s=60)
    assert is_ready(server)
    assert len(ids_of(ask(server.grpc_url, [5], SHORT))) == 12
    server.stop()
    assert not runtime_files(server)


@pytest.mark.slow
def test_engines_that_never_load_again_are_in_the_metrics(start_server: StartServer, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    server = start_server({"max_rows": 2, "engine_python": str(python), "engine_restarts": 2}, instances=2)
    server.wait_ready()
    (tmp_path / "broken").write_text("#!/bin/sh\nexit 3\n")
    (tmp_path / "broken").chmod(0o755)
    (tmp_path / "broken").rename(python)
    assert server.metrics()[series("flover_engine_restarts_total")] == 0
    os.kill(engine_of(server), signal.SIGKILL)
    wait_for(lambda: not is_ready(server), timeout_s=60)
    wait_for(lambda: server.metrics()[series("flover_engine_restarts_total")] == 2)
    server.stop()
