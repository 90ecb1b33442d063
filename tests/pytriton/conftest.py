"""One PyTriton program for most tests: a model with room, and one that serves a single request at a time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pytriton_host import Host, pytriton_host


@pytest.fixture(scope="session")
def host() -> Iterator[Host]:
    narrow = {"max_rows": 1, "max_queued_requests": 1, "kv_cache_tokens": 4096}
    with pytriton_host(flover={"max_rows": 16}, narrow=narrow) as host:
        yield host
