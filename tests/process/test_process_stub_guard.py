"""What guards a stub that no thread of its own can watch over."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flover_backend.front import stub_guard, watch

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(100)"


@pytest.fixture
def pair() -> Iterator[tuple[subprocess.Popen[str], subprocess.Popen[str]]]:
    """A server and a stub, both deaf to SIGTERM."""
    both = [subprocess.Popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for one in both:
        assert one.stdout is not None and one.stdout.readline() == "up\n"
    yield both[0], both[1]
    for one in both:
        one.kill()
        one.wait()
        assert one.stdout is not None
        one.stdout.close()


def start_guard(server: int, stub: int, *regions: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", "-S", stub_guard.__file__, str(server), str(stub), *map(str, regions)]
    )


def test_a_stub_ends_with_its_server_and_so_does_its_memory(
    pair: tuple[subprocess.Popen[str], subprocess.Popen[str]], tmp_path: Path
) -> None:
    server, stub = pair
    (tmp_path / "region").touch()
    guard = start_guard(server.pid, stub.pid, tmp_path / "region", tmp_path / "gone already")
    time.sleep(0.5)
    assert stub.poll() is None and guard.poll() is None and (tmp_path / "region").exists()
    server.kill()
    server.wait()
    assert stub.wait(20) == -9
    assert guard.wait(20) == 0
    assert not (tmp_path / "region").exists()


def test_the_guard_of_a_stub_that_ends_first_touches_nothing(
    pair: tuple[subprocess.Popen[str], subprocess.Popen[str]], tmp_path: Path
) -> None:
    server, stub = pair
    (tmp_path / "region").touch()
    guard = start_guard(server.pid, stub.pid, tmp_path / "region")
    stub.kill()
    stub.wait()
    assert guard.wait(20) == 0
    assert server.poll() is None and (tmp_path / "region").exists()


def test_a_server_that_was_gone_before_the_guard_began(
    pair: tuple[subprocess.Popen[str], subprocess.Popen[str]], tmp_path: Path
) -> None:
    server, stub = pair
    server.kill()
    server.wait()
    assert start_guard(server.pid, stub.pid).wait(20) == 0
    assert stub.wait(20) == -9


def test_only_a_stub_is_guarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process has mapped no region that its command line names."""

    def refuse(*arguments: object, **more: object) -> None:
        raise AssertionError(f"started {arguments}")

    monkeypatch.setattr(watch.subprocess, "Popen", refuse)
    watch.guard_this_stub()
