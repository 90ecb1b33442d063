"""One live server for all tests of the client, and clients of it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from live_server import LiveServer, live_servers

from flover_client import Client


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """The bundled model, eight rows, a queue of sixteen, two fronts."""
    with live_servers(tmp_path_factory.mktemp) as start:
        running = start({"max_rows": 8, "max_queued_requests": 16}, instances=2)
        running.wait_ready()
        yield running
        begin = time.monotonic()
    assert time.monotonic() - begin < 20, "a stream was left open: the server stopped only at its --exit-timeout-secs"


@pytest.fixture
def client(server: LiveServer) -> Iterator[Client]:
    with Client(server.grpc_url, timeout_s=60) as client:
        yield client
