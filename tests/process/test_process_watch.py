"""The front's watch on its server."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import pytest
from engine_host import is_running, wait_until

from flover_backend.errors import EngineFailed
from flover_backend.front.watch import ServerWatch, server_pid
from flover_backend.stub_memory import SHARED_MEMORY, shared_memory_regions

STUB = """
import mmap, sys, time
from flover_backend.front.watch import ServerWatch, server_pid
with open("/dev/shm/" + sys.argv[1], "r+b") as file:
    region = mmap.mmap(file.fileno(), 0)
ServerWatch(int(sys.argv[2])).start()
print("watching", flush=True)
time.sleep(600)
"""


def test_a_killed_server_takes_the_front_and_its_shared_memory_with_it() -> None:
    server = subprocess.Popen(["sleep", "600"])
    own, other = (SHARED_MEMORY / f"flover_test_{uuid.uuid4().hex}" for _ in range(2))
    for region in (own, other):
        region.write_bytes(b"\0" * 4096)
    stub = subprocess.Popen(
        [sys.executable, "-c", STUB, own.name, str(server.pid), other.name],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert stub.stdout is not None
    try:
        assert stub.stdout.readline() == "watching\n"
        server.kill()
        server.wait()
        wait_until(lambda: not is_running(stub.pid), "the front's end", 5.0)
        assert not own.exists()
        assert other.exists(), "a name that this process has not mapped is not its region"
    finally:
        stub.kill()
        stub.communicate()
        for region in (own, other):
            region.unlink(missing_ok=True)


def test_a_stopped_watch_lets_the_process_live() -> None:
    server = subprocess.Popen(["sleep", "600"])
    ended = threading.Event()
    watch = ServerWatch(server.pid, end=lambda code: ended.set())
    watch.start()
    watch.stop()
    server.kill()
    server.wait()
    assert not ended.wait(0.1)
    with pytest.raises(EngineFailed, match="is gone"):
        ServerWatch(server.pid)


def test_the_server_is_the_parent_unless_a_stub_was_orphaned(monkeypatch: pytest.MonkeyPatch) -> None:
    assert server_pid(["python", "test"]) == os.getppid()
    monkeypatch.setattr("flover_backend.front.watch.shared_memory_regions", lambda arguments: [Path("/dev/shm/x")])
    assert server_pid(["stub", "model.py", "x", "1048576", "1048576", str(os.getppid())]) == os.getppid()
    with pytest.raises(EngineFailed, match="is gone"):
        server_pid(["stub", "model.py", "x", "1048576", "1048576", "99999999"])


def test_a_process_without_regions_names_none() -> None:
    assert shared_memory_regions(["stub", "model.py", "triton_python_backend_shm_region_1"]) == []
