"""`flover drain` on servers that somebody else runs, as a preStop hook calls it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from live_engine import engine_of, is_ready
from live_metrics import finished, value
from live_server import LiveServer, StartServer, runtime_files, wait_for
from triton_client import Call, arrays_of, ask, ids_of

MODEST = {"temperature": 0, "max_tokens": 400, "ignore_eos": True}
LONG = {"temperature": 0, "max_tokens": 700, "ignore_eos": True}


def drain(server: LiveServer, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "flover_backend.drain", "--pid", str(server.process.pid), *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def ended(command: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status and what it said."""
    _, said = command.communicate(timeout=120)
    return command.returncode, said


def test_what_runs_finishes_what_comes_is_refused_and_the_rest_is_ended(start_server: StartServer) -> None:
    """One row, so that there is work for long: more than the commands need to start."""
    server = start_server({"max_rows": 1, "drain_timeout_s": 300}, instances=2)
    server.wait_ready()
    calls = [Call(server.grpc_url, arrays_of([6], LONG, stream=stream)) for stream in [True, False] * 5]
    wait_for(lambda: value(server, "flover_requests_running") == 1, timeout_s=60)
    patient = drain(server)
    wait_for(lambda: server.log().count("draining: new requests are refused") == 2, timeout_s=60)
    for _ in range(4):  # on either front
        (late,) = ask(server.grpc_url, [8], {"max_tokens": 1})
        assert "draining" in late.error
        assert late.error.endswith("[UNAVAILABLE]")
    assert is_ready(server), "24.10 does not ask the model: docs/operations.md says so"
    before = finished(server, "length")
    wait_for(lambda: finished(server, "length") > before, timeout_s=60)
    impatient = drain(server, "--timeout", "0")
    ends = [call.rest() for call in calls]
    cut = [last for *_, last in ends if last.error]
    assert cut
    assert all("the server shut down before the request was finished [UNAVAILABLE]" in last.error for last in cut)
    assert all(len(ids_of(end)) == LONG["max_tokens"] for end in ends if not end[-1].error)
    for command in (patient, impatient):
        status, text = ended(command)
        assert status == 0, text
        assert f"requests finished, {len(cut)} were ended" in text
    assert is_ready(server), "drained, too"
    status, text = ended(drain(server, "--stop"))
    assert (status, f"server {server.process.pid} has ended" in text) == (0, True), text
    assert server.wait_ended() == 0
    wait_for(lambda: runtime_files(server) == [])


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL], ids=["hung", "killed"])
def test_an_engine_that_is_started_again_meanwhile_is_drained_too(
    start_server: StartServer, number: signal.Signals
) -> None:
    server = start_server({"drain_timeout_s": 120}, instances=2)
    server.wait_ready()
    running = Call(server.grpc_url, arrays_of([6], LONG | {"max_tokens": 2000}, stream=True))
    running.next()
    os.kill(engine_of(server), number)
    status, text = ended(drain(server))
    assert status == 0, text
    last = running.rest()[-1]
    assert last.error.endswith("[INTERNAL]")
    for _ in range(4):
        (late,) = ask(server.grpc_url, [8], {"max_tokens": 1})
        assert late.error.endswith("[UNAVAILABLE]")
    server.stop()


@pytest.mark.slow
def test_all_models_of_a_server_are_drained(start_server: StartServer) -> None:

    def add_second(models: Path) -> None:
        shutil.copytree(models / "flover", models / "other")
        config = models / "other" / "config.pbtxt"
        config.write_text(config.read_text().replace('"flover"', '"other"').replace("count: 1", "count: 2"))
        (models / "other" / "1" / "model.json").write_text(json.dumps({"model": "gptj-demo"}))

    control = ("--model-control-mode=explicit", "--load-model=flover", "--load-model=other")
    server = start_server(control=control, prepare=add_second)
    for model in ("flover", "other"):
        server.wait_ready(model)
    calls = [Call(server.grpc_url, arrays_of([6], MODEST, stream=True), model) for model in ("flover", "other")]
    begun = [call.next() for call in calls]
    status, text = ended(drain(server, "--timeout", "300"))
    assert status == 0
    lengths = [len(ids_of([first, *call.rest()])) for first, call in zip(begun, calls, strict=True)]
    assert lengths == [MODEST["max_tokens"]] * 2
    for model in ("flover", "other"):
        assert f"model {model} v1 (engine " in text
        (late,) = Call(server.grpc_url, arrays_of([8], {"max_tokens": 1}), model).rest()
        assert "draining" in late.error
    server.stop()
