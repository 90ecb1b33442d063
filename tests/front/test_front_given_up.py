"""Whether Triton still waits for a front that loads, from samples of a byte; and where that byte is."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flover_backend.front.given_up import PATIENCE_SAMPLES, RECENT_SAMPLES, Asking, LoadWatch, health_of

SECOND = [0] * 8 + [1] * 42
"""Samples of a server that asks and is answered."""


def after(samples: list[int]) -> Asking:
    asking = Asking()
    for value in samples:
        asking.see(value)
    return asking


@pytest.mark.parametrize("phase", range(0, 50, 7))
def test_a_server_that_asks_every_second_goes_on_waiting(phase: int) -> None:
    asking, samples = Asking(), (SECOND * 60)[phase:]
    for value in samples:
        asking.see(value)
        assert asking.is_recent and not asking.has_ended
    assert asking.is_known


def test_one_that_asks_no_more_has_given_the_front_up() -> None:
    assert after(SECOND * 3 + [1] * (RECENT_SAMPLES - 42)).is_recent
    assert not after(SECOND * 3 + [1] * (RECENT_SAMPLES - 41)).is_recent
    assert not after(SECOND * 3 + [1] * (PATIENCE_SAMPLES - 42)).has_ended
    assert after(SECOND * 3 + [1] * (PATIENCE_SAMPLES - 41)).has_ended


@pytest.mark.parametrize(
    "samples",
    [
        [1] * 5000,
        [0] * 5000,
        SECOND + [1] * 5000,
        [7] * 5000,
        SECOND * 3 + [2] + SECOND * 3 + [1] * 5000,
    ],
    ids=["never asks", "never answered", "asked once", "another byte", "now and then another value"],
)
def test_nothing_is_concluded_from_a_byte_that_does_not_come_and_go(samples: list[int]) -> None:
    asking = after(samples)
    assert not asking.is_known
    assert not asking.has_ended


def watch(samples: Callable[[], int] | None) -> tuple[LoadWatch, threading.Event]:
    ended = threading.Event()
    return LoadWatch(samples, ended.set, sample_s=0.0), ended


def test_the_front_is_ended_once_when_it_has_been_given_up() -> None:
    samples: Iterator[int] = iter(SECOND * 3 + [1] * 100_000)
    load_watch, ended = watch(lambda: next(samples))
    with load_watch:
        assert ended.wait(10)
        load_watch.settle()
    assert next(samples) == 1, "it was not read to its end"


def test_a_load_that_is_over_in_time_is_let_go_of() -> None:
    samples = iter(SECOND * 100_000)
    load_watch, ended = watch(lambda: next(samples))
    with load_watch:
        load_watch.settle()
    assert not ended.is_set()


def test_after_a_pause_of_its_own_a_front_waits_for_the_next_question() -> None:
    asking = after(SECOND * 3 + [1] * RECENT_SAMPLES)
    assert asking.is_known and not asking.is_recent
    asking.see(0)
    assert asking.is_recent


def test_where_there_is_no_such_byte_nothing_waits() -> None:
    load_watch, ended = watch(None)
    with load_watch:
        load_watch.settle()
    assert not ended.is_set()


@pytest.fixture
def region() -> Iterator[Path]:
    path = Path("/dev/shm") / f"flover_test_{uuid.uuid4().hex}"
    path.write_bytes(bytes(352) + b"\1" + bytes(4096))
    yield path
    path.unlink()


STUB = "import mmap, sys; file = open(sys.argv[2], 'rb'); m = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ); input()"


def stub_line(region: Path, handle: str) -> list[str]:
    """As a stub's: model.py, the region, two sizes, the server, a folder, the handle, the instance."""
    return ["stub", "model.py", region.name, "1048576", "1048576", "1", "/backends/python", handle, "flover_0_0", ""]


@pytest.mark.parametrize(
    ("handle", "is_found"), [("336", True), ("5000", False), ("-400", False), ("flover_0_0", False)]
)
def test_the_byte_is_found_by_the_stubs_command_line(region: Path, handle: str, is_found: bool) -> None:
    process = subprocess.Popen([sys.executable, "-c", STUB, "-", str(region)], stdin=subprocess.PIPE)
    try:
        maps = Path(f"/proc/{process.pid}/maps")
        while region.name not in maps.read_text():
            assert process.poll() is None
        read = health_of(stub_line(region, handle), process.pid)
    finally:
        process.communicate(b"\n", timeout=30)
    assert (read is not None) == is_found
    if read is not None:
        assert read() == 1
        with region.open("r+b") as file:
            os.pwrite(file.fileno(), b"\0", 352)
        assert read() == 0


def test_a_process_without_a_region_has_none() -> None:
    assert health_of([sys.executable, "-c", ""]) is None
