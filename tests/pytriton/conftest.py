"""One PyTriton program for most tests: a model with room, and one that serves a single request at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from live_server import descendants_of, is_running
from pytriton_host import Host, pytriton_host, traces_of


@pytest.fixture(scope="session")
def host() -> Iterator[Host]:
    narrow = {"max_rows": 1, "max_queued_requests": 1, "kv_cache_tokens": 4096}
    others = descendants_of(os.getpid())  # servers of other suites, when several run in one process
    with pytriton_host(flover={"max_rows": 16}, narrow=narrow) as host:
        pids = [pid for pid in descendants_of(os.getpid()) if pid not in others]
        yield host
    assert not any(is_running(pid) for pid in pids), "a process of Triton's or an engine was left"
    assert not traces_of(os.getpid())
