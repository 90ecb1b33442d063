"""What is left when processes die: every request has its end, and nothing runs on."""

from __future__ import annotations

import os
import signal

from live_engine import engine_of, is_ready
from live_server import StartServer, is_running, runtime_files, shared_memory_of, wait_for
from triton_client import Call, arrays_of, ask

ENDLESS = {"max_tokens": 2000, "ignore_eos": True}


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
    wait_for(lambda: not is_ready(server))
    (answer,) = ask(server.grpc_url, [5, 6])
    assert "not ready" in answer.error or "no available versions" in answer.error
    wait_for(lambda: not server.descendants())
    assert not runtime_files(server)
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
