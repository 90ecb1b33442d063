"""What is left when processes die: every request has its end, and nothing runs on."""

from __future__ import annotations

import os
import signal

from live_server import LiveServer, StartServer, command_line, is_running, runtime_files, shared_memory_of, wait_for
from triton_client import Call, arrays_of, ask

ENDLESS = {"max_tokens": 2000, "ignore_eos": True}


def engine_of(server: LiveServer) -> int:
    (pid,) = [pid for pid in server.descendants() if "flover_backend.engine.process" in command_line(pid)]
    return pid


def test_an_engine_that_dies_ends_every_request_with_an_error(start_server: StartServer) -> None:
    server = start_server({"engine_restarts": 0}, instances=2)
    server.wait_ready()
    streams = [Call(server.grpc_url, arrays_of([5, 6], ENDLESS, stream=True)) for _ in range(4)]
    wholes = [Call(server.grpc_url, arrays_of([5, 6], ENDLESS)) for _ in range(4)]
    for call in streams:
        call.next()
    os.kill(engine_of(server), signal.SIGKILL)
    for call in (*streams, *wholes):
        last = call.rest()[-1]
        assert last.final
        assert "the engine has failed" in last.error
    for _ in range(4):
        (answer,) = ask(server.grpc_url, [5, 6])
        assert "the engine has failed" in answer.error
    server.stop()


def test_a_server_that_is_killed_leaves_nothing_behind(start_server: StartServer) -> None:
    server = start_server(instances=2)
    server.wait_ready()
    Call(server.grpc_url, arrays_of([5, 6], ENDLESS, stream=True)).next()
    children = server.descendants()
    regions = [path for pid in children for path in shared_memory_of(pid)]
    assert len(regions) == 2
    server.process.kill()
    server.process.wait()
    wait_for(lambda: not [pid for pid in children if is_running(pid)])
    assert not [path for path in regions if path.exists()]
    assert not runtime_files(server)
