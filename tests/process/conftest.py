"""A private runtime directory and a host for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_host import Host


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    host = Host(tmp_path)
    yield host
    host.end()
