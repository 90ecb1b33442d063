"""A server that is killed at any moment of its load leaves no process and no shared memory."""

from __future__ import annotations

import time

import pytest
from live_server import StartServer, is_running, runtime_files, shared_memory_of, wait_for


@pytest.mark.slow
@pytest.mark.parametrize("delay_s", [0.2, 0.4, 0.6, 0.8, 1.0, 1.3, 1.6, 2.0, 2.5, 3.0])
def test_nothing_is_left_of_a_load_that_was_cut_short(start_server: StartServer, delay_s: float) -> None:
    """Which part of the load a moment meets depends on the machine; each leaves nothing."""
    server = start_server(instances=2)
    wait_for(lambda: bool(server.descendants()), timeout_s=60)
    time.sleep(delay_s)
    started = server.descendants()
    regions = [path for pid in started for path in shared_memory_of(pid)]
    server.process.kill()
    server.process.wait()
    wait_for(lambda: not any(map(is_running, started)), timeout_s=30)
    assert not [path for path in regions if path.exists()]
    assert not runtime_files(server)
