"""Malformed requests over gRPC, HTTP and the engine's socket to a live server, as tests/fuzz/bombard.py makes them."""

from __future__ import annotations

import pytest
from bombard import SMALL, Bombardment
from live_server import LiveServer, StartServer


def check(bombardment: Bombardment, least: int) -> None:
    assert not bombardment.faults, "\n".join(bombardment.faults)
    assert sum(outcomes.total() for outcomes in bombardment.outcomes.values()) >= least
    assert bombardment.good_requests >= least // 100 - 3
    for way, outcomes in bombardment.outcomes.items():
        assert outcomes["refused"] + outcomes["answered"], f"{way}: {outcomes}"


def test_some_hundred_malformed_requests(server: LiveServer) -> None:
    bombardment = Bombardment(server, seed=1)
    bombardment.run(300)
    check(bombardment, 300)


@pytest.mark.slow
def test_twenty_thousand_malformed_requests(start_server: StartServer) -> None:
    server = start_server(SMALL, instances=2)
    server.wait_ready()
    bombardment = Bombardment(server, seed=2)
    bombardment.run(21_000)
    check(bombardment, 20_000)
    server.stop()
