"""Servers for the live tests: one for everyday use, and a way to start others."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from live_server import LiveServer, StartServer, live_servers


@pytest.fixture(scope="session")
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartServer]:
    """start_server(model_json, instances=1, arguments=(), config_text="") -> a server; stopped at the end at last."""
    with live_servers(tmp_path_factory.mktemp) as start:
        yield start


@pytest.fixture(scope="session")
def server(start_server: StartServer) -> LiveServer:
    """The everyday server: the bundled model behind two fronts."""
    running = start_server(instances=2)
    running.wait_ready()
    return running


@pytest.fixture(scope="session")
def small_server(start_server: StartServer) -> LiveServer:
    """Two rows, a queue of four with 4,000 tokens, prompts in pieces of 4 tokens; it logs verbosely."""
    model_json = {"max_rows": 2, "max_queued_requests": 4, "max_queued_tokens": 4000, "prefill_token_budget": 4}
    running = start_server(model_json, instances=2, arguments=("--log-verbose=1",))
    running.wait_ready()
    return running
