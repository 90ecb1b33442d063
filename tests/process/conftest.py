"""A private runtime directory and a host for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_host import Host, private_host


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with private_host(tmp_path, monkeypatch.setenv) as host:
        yield host
