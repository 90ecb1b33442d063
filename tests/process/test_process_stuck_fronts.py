"""A front that cannot run Python any more when its server is killed is ended by the engine; others are left alone."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_host import Host, is_running, wait_until

from flover_backend.engine.stuck_fronts import end_stuck_fronts, remove_regions_of_the_dead
from flover_backend.stub_memory import SHARED_MEMORY

STUCK = """
import ctypes, mmap, signal, sys
if len(sys.argv) > 1:
    with open("/dev/shm/" + sys.argv[1], "r+b") as file:
        region = mmap.mmap(file.fileno(), 0)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("stuck", flush=True)
ctypes.PyDLL(None).sleep(600)  # with the interpreter lock
"""


@pytest.fixture
def region() -> Iterator[Path]:
    path = SHARED_MEMORY / f"flover_test_{uuid.uuid4().hex}"
    path.write_bytes(b"\0" * 4096)
    yield path
    path.unlink(missing_ok=True)


def start(*arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", STUCK, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "stuck\n"
    return process


def test_a_stuck_stub_is_killed_and_its_region_goes(region: Path) -> None:
    stub = start(region.name)
    try:
        end_stuck_fronts([stub.pid], grace_s=0.1)
        assert stub.wait(10) == -9
        assert not region.exists()
    finally:
        stub.kill()
        stub.communicate()


def test_the_region_of_a_stub_that_ends_by_itself_goes_too(region: Path) -> None:
    stub = start(region.name)
    threading.Timer(0.2, stub.kill).start()
    end_stuck_fronts([stub.pid], grace_s=30.0)
    assert not region.exists()
    stub.communicate()


ATTACHED = """
import ctypes, mmap, sys
from pathlib import Path
from flover_backend.config import ModelJson
from flover_backend.front.client import EngineClient
from flover_backend.front.watch import ServerWatch
from recording_front import Recorder
region, server, model_dir = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
with open("/dev/shm/" + region, "r+b") as file:
    region = mmap.mmap(file.fileno(), 0)
ServerWatch(server).start()
client = EngineClient.connect(
    ModelJson(), model_dir, "flover", "1", server, "stuck", log=lambda line: None, factory="echo_core:load"
)
client.start(Recorder())
print("attached", flush=True)
ctypes.PyDLL(None).sleep(600)
"""


def test_a_stuck_front_of_a_killed_server_goes_with_its_engine(host: Host, region: Path) -> None:
    here = Path(__file__).parent
    front = subprocess.Popen(
        [sys.executable, "-c", ATTACHED, region.name, str(host.server.pid), str(host.model_dir)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{here.parent.parent}:{here}"},
    )
    assert front.stdout is not None
    try:
        assert front.stdout.readline() == "attached\n"
        (engine,) = host.engine_pids()
        host.kill_server()
        wait_until(lambda: not is_running(front.pid), "the front's end")
        wait_until(lambda: not is_running(engine), "the engine's end")
        assert not region.exists()
        assert host.files() == []
    finally:
        front.kill()
        front.communicate()


def test_a_process_that_is_no_stub_is_left_alone(region: Path) -> None:
    other = start()
    try:
        end_stuck_fronts([other.pid], grace_s=0.0)
        assert other.poll() is None
    finally:
        other.kill()
        other.communicate()


def test_what_a_stub_left_goes_once_it_is_dead(region: Path) -> None:
    stub = start(region.name)
    try:
        remove_regions_of_the_dead({stub.pid: [region]})
        assert region.exists()
        stub.kill()
        wait_until(lambda: not is_running(stub.pid), "the stub's end")
        remove_regions_of_the_dead({stub.pid: [region]})
        assert not region.exists(), "though nobody has collected it"
    finally:
        stub.kill()
        stub.communicate()


def test_a_stub_that_is_gone_already_is_no_fault() -> None:
    end_stuck_fronts([2**22 + 1])
