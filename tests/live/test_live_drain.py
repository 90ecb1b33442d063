"""`flover drain` on servers that somebody else runs, as a preStop hook calls it."""

from __future__ import annotations

import subprocess
import sys

from live_server import LiveServer, StartServer, runtime_files, wait_for
from triton_client import Call, arrays_of, ask, ids_of

SHORT = {"temperature": 0, "max_tokens": 12, "ignore_eos": True}
LONG = {"temperature": 0, "max_tokens": 2000, "ignore_eos": True}


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
    first = Call(server.grpc_url, arrays_of([5], SHORT))
    rest = [Call(server.grpc_url, arrays_of([6], LONG, stream=stream)) for stream in [True, False] * 5]
    answers = first.rest()
    patient = drain(server)
    wait_for(lambda: server.log().count("draining: new requests are refused") == 2, timeout_s=60)
    for _ in range(4):  # on either front
        (late,) = ask(server.grpc_url, [8], {"max_tokens": 1})
        assert "draining" in late.error
        assert late.error.endswith("[UNAVAILABLE]")
    impatient = drain(server, "--timeout", "0")
    ends = [call.rest() for call in rest]
    cut = [last for *_, last in ends if last.error]
    assert cut
    assert all("the server shut down before the request was finished [UNAVAILABLE]" in last.error for last in cut)
    assert all(len(ids_of(end)) == 2000 for end in ends if not end[-1].error)
    for command in (patient, impatient):
        status, text = ended(command)
        assert status == 0, text
        assert f"requests finished, {len(cut)} were ended" in text
    assert len(ids_of(answers)) == 12
    server.stop()
    assert runtime_files(server) == []
