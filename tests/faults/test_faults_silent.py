"""The client that reads nothing: its frames are understood by a real HTTP/2 server, and its requests are computed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from live_metrics import finished, wait_idle, wait_settled
from live_server import LiveServer, live_servers, wait_for
from triton_client import ask, ids_of

from benchmarks.faults.silent_client import SilentClient
from benchmarks.pa.run import Target
from benchmarks.suite.load.calls import Call


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with live_servers(tmp_path_factory.mktemp) as start:
        running = start(instances=2)
        running.wait_ready()
        yield running
        running.process.kill()  # 24.10 stops 30 s after a stream whose client never read, past its own limit
        running.process.wait()


def test_what_it_asks_is_computed_beside_others_and_given_back(server: LiveServer) -> None:
    before = finished(server, "length")
    with SilentClient(Target(server.grpc_url), server.http_url.removeprefix("http://")) as client:
        client.ask_grpc(Call(0.0, (5, 6), 300))
        client.ask_grpc(Call(0.0, (7,), 300))
        client.ask_http(Call(0.0, (8, 9), 300))
        other = ask(server.grpc_url, [5, 6], {"temperature": 0, "max_tokens": 20, "ignore_eos": True}, stream=True)
        assert len(ids_of(other)) == 20
        wait_for(lambda: finished(server, "length") == before + 4, timeout_s=60)
    wait_idle(server)
    wait_settled(server)
