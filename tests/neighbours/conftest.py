"""One server that many models share, for all tests here; and a way to start others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from asker import Asker
from live_server import LiveServer, StartServer, live_servers
from repository import add_model, add_neighbours

EVERYTHING = ("--model-control-mode=explicit", "--load-model=*")


@pytest.fixture(scope="session")
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartServer]:
    """live_server.live_servers' start."""
    with live_servers(tmp_path_factory.mktemp) as start:
        yield start


def fill(models: Path) -> None:
    add_neighbours(models, "identity", "tidy", "shout", "storyteller", "caller")
    add_model(models, "flover", {}, count=2)


@pytest.fixture(scope="session")
def server(start_server: StartServer) -> LiveServer:
    """`flover` with two fronts, four rows and a queue of eight; an ensemble and a BLS model that call it; identity."""
    running = start_server({"max_rows": 4, "max_queued_requests": 8}, control=EVERYTHING, prepare=fill)
    running.wait_ready()
    return running


@pytest.fixture
def neighbour(server: LiveServer) -> Iterator[Asker]:
    """Somebody who asks `identity` of `server` from the test's beginning to its end and must always get its answer."""
    with Asker(server) as asker:
        yield asker
