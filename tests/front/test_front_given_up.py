"""Whether Triton still waits for a front that loads, from samples of a byte; and where that byte is."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flover_backend.front.given_up import (
    ANSWERED,
    LATE_S,
    PATIENCE_SAMPLES,
    SAMPLE_S,
    Asking,
    LoadWatch,
    health_of,
)

SECOND = [0] * 8 + [1] * 42
"""Samples of a server that asks and is answered."""
LONG = [1] * (PATIENCE_SAMPLES + 1)


class Front:
    """Samples with the clock of a machine that runs, but for pauses of the front alone."""

    def __init__(self) -> None:
        self.asking, self._now = Asking(), 100.0

    def sees(self, *samples: list[int]) -> Front:
        for value in itertools.chain(*samples):
            self._now += SAMPLE_S
            self.asking.see(value, self._now)
        return self

    def pauses(self, seconds: float) -> Front:
        self._now += seconds
        return self


@pytest.mark.parametrize("phase", range(0, 50, 7))
def test_a_server_that_asks_every_second_goes_on_waiting(phase: int) -> None:
    front = Front()
    for value in (SECOND * 60)[phase:]:
        asking = front.sees([value]).asking
        assert not asking.is_in_doubt and not asking.has_ended
    assert asking.is_known


def test_a_front_that_paused_and_is_asked_no_more_has_been_given_up() -> None:
    front = Front().sees(SECOND * 3).pauses(LATE_S + 0.1).sees([1])
    assert front.asking.is_in_doubt
    assert not front.sees([1] * (PATIENCE_SAMPLES - 43)).asking.has_ended
    assert front.sees([1]).asking.has_ended


def test_one_that_left_a_question_unanswered_is_in_doubt_without_a_pause() -> None:
    """Its sampler ran, and the stub's own thread did not."""
    front = Front().sees(SECOND * 3, [0] * 40)
    assert front.asking.is_in_doubt
    assert front.sees(LONG).asking.has_ended


def test_the_question_that_a_pause_fell_into_is_no_proof() -> None:
    front = Front().sees(SECOND * 3).pauses(2.5).sees([0, 0, 1])
    assert front.asking.is_in_doubt
    assert not front.sees(SECOND).asking.is_in_doubt, "the server asks again"


def test_a_server_that_stands_still_has_given_nobody_up() -> None:
    """It is stopped, or waits for a disk: the front has answered each question, and waits."""
    front = Front().sees(SECOND * 3, LONG * 10)
    assert front.asking.is_known and not front.asking.is_in_doubt and not front.asking.has_ended


@pytest.mark.parametrize(
    "samples",
    [
        [1] * 100,
        [0] * 100,
        SECOND,
        [7] * 100,
        [*SECOND * 3, 2, *SECOND * 3],
    ],
    ids=["never asks", "never answered", "asked once", "another byte", "now and then another value"],
)
def test_nothing_is_concluded_from_a_byte_that_does_not_come_and_go(samples: list[int]) -> None:
    asking = Front().sees(samples).pauses(2.5).sees(LONG).asking
    assert not asking.is_known and not asking.is_in_doubt and not asking.has_ended


class Byte:
    """Gives samples, the next whenever it is let go on, and the last one for ever."""

    def __init__(self, *samples: list[int]) -> None:
        self._samples = iter(list(itertools.chain(*samples)))
        self._last = ANSWERED

    def __call__(self) -> int:
        self._last = next(self._samples, self._last)
        return self._last


def watch(read: Callable[[], int] | None) -> tuple[LoadWatch, threading.Event]:
    ended = threading.Event()
    return LoadWatch(read, ended.set, sample_s=0.0), ended


def pausing(samples: list[int], rest: Callable[[], int]) -> Callable[[], int]:
    """The samples, a pause of the front, and what comes then."""

    def values() -> Iterator[int]:
        yield from samples
        time.sleep(LATE_S + 0.2)
        while True:
            yield rest()

    return values().__next__


def test_a_front_that_was_given_up_is_ended_once() -> None:
    load_watch, ended = watch(pausing(SECOND * 3, Byte(LONG * 2)))
    with load_watch:
        assert ended.wait(30)
        load_watch.settle()


def test_a_load_that_ends_in_doubt_waits_for_the_next_question() -> None:
    asks, in_doubt, questions = threading.Event(), threading.Event(), itertools.cycle(SECOND)

    def rest() -> int:
        in_doubt.set()
        time.sleep(SAMPLE_S)  # so that patience is 10 s here, too
        return next(questions) if asks.is_set() else ANSWERED

    load_watch, ended = watch(pausing(SECOND * 3, rest))
    settled = threading.Event()
    with load_watch:
        assert in_doubt.wait(30)
        load = threading.Thread(target=lambda: (load_watch.settle(), settled.set()))
        load.start()
        assert not settled.wait(0.1)
        asks.set()
        load.join(30)
        assert settled.is_set()
    assert not ended.is_set()


@pytest.mark.parametrize("samples", [SECOND * 1000, [1] * 50_000], ids=["asked", "nothing known"])
def test_a_load_that_ends_without_a_doubt_is_let_go_of(samples: list[int]) -> None:
    load_watch, ended = watch(Byte(samples))
    with load_watch:
        load_watch.settle()
    assert not ended.is_set()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_byte_that_cannot_be_read_any_more_holds_nothing_up() -> None:
    source = iter([1])
    load_watch, ended = watch(lambda: next(source))
    with load_watch:
        load_watch.settle()
        load_watch.settle()  # another sample will not come
    assert not ended.is_set()


def test_where_there_is_no_such_byte_nothing_waits() -> None:
    load_watch, ended = watch(None)
    with load_watch:
        load_watch.settle()
    assert not ended.is_set()


@pytest.mark.parametrize("reader", ["reads", "is gone"])
def test_the_end_says_why_where_somebody_reads_it(reader: str) -> None:
    code = (
        "from flover_backend.front.given_up import end_saying; from flover_backend.front.logs import Log;"
        " end_saying(Log('flover_0_0 v1'), 'given up')"
    )
    ours, theirs = os.pipe()
    process = subprocess.Popen([sys.executable, "-c", code], stderr=theirs)
    os.close(theirs)
    with os.fdopen(ours, "rb") as read:
        if reader == "reads":
            assert read.read() == b"flover flover_0_0 v1: given up\n"
    assert process.wait(60) == 1


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
