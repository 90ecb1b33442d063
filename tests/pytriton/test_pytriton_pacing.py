"""When a stream's responses go, by itself: a stream that counts how often it is served, a clock that is far away."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from flover_backend.pytriton.pacing import PacedSenders

NEVER_S = 3600.0


class CountingStream:
    def __init__(self) -> None:
        self.times_served = 0
        self.is_ending = False
        self.threads: list[int] = []
        self.while_served: Callable[[], None] = lambda: None

    def serve(self) -> None:
        self.times_served += 1
        self.threads.append(threading.get_ident())
        self.while_served()


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def in_loop(test: Callable[[PacedSenders], object], interval_s: float = NEVER_S) -> None:
    async def run() -> None:
        senders = PacedSenders(interval_s)
        senders.attach(asyncio.get_running_loop())
        await test(senders)  # type: ignore[misc]
        assert not senders._next_time, "a stream that has ended is remembered"

    asyncio.run(run())


def test_the_first_goes_at_once_the_next_waits_and_the_last_does_not() -> None:
    async def test(senders: PacedSenders) -> None:
        stream = CountingStream()
        senders.schedule(stream)
        await settle()
        assert stream.times_served == 1
        senders.schedule(stream)
        await settle()
        assert stream.times_served == 1
        stream.is_ending = True
        senders.hasten(stream)
        await settle()
        assert stream.times_served == 2

    in_loop(test)


def test_news_that_end_a_stream_do_not_wait() -> None:
    async def test(senders: PacedSenders) -> None:
        stream = CountingStream()
        senders.schedule(stream)
        await settle()
        stream.is_ending = True
        senders.schedule(stream)
        await settle()
        assert stream.times_served == 2
        senders.hasten(stream)  # it was served meanwhile
        await settle()
        assert stream.times_served == 2

    in_loop(test)


def test_streams_do_not_wait_for_each_other() -> None:
    async def test(senders: PacedSenders) -> None:
        streams = [CountingStream() for _ in range(5)]
        for stream in streams:
            senders.schedule(stream)
            await settle()
        assert [stream.times_served for stream in streams] == [1] * 5
        for stream in streams:
            stream.is_ending = True
            senders.schedule(stream)
        await settle()

    in_loop(test)


def test_what_waits_goes_when_its_time_has_come() -> None:
    async def test(senders: PacedSenders) -> None:
        stream, served = CountingStream(), asyncio.Event()
        loop, start = asyncio.get_running_loop(), asyncio.get_running_loop().time()
        senders.schedule(stream)
        await settle()
        stream.while_served = served.set
        senders.schedule(stream)
        await asyncio.wait_for(served.wait(), 60)
        assert loop.time() - start >= 0.05
        stream.is_ending = True
        senders.schedule(stream)
        await settle()

    in_loop(test, interval_s=0.05)


def test_streams_are_served_in_the_loop_whoever_asks() -> None:
    async def test(senders: PacedSenders) -> None:
        streams, loop = [CountingStream() for _ in range(50)], asyncio.get_running_loop()
        for stream in streams:
            stream.is_ending = True
        done = [loop.run_in_executor(None, senders.schedule, stream) for stream in streams]
        await asyncio.gather(*done)
        await settle()
        assert [stream.threads for stream in streams] == [[threading.get_ident()]] * 50

    in_loop(test)


def test_without_a_loop_that_runs_nothing_is_left() -> None:
    senders, stream, late = PacedSenders(NEVER_S), CountingStream(), CountingStream()

    async def attach() -> None:
        senders.attach(asyncio.get_running_loop())
        senders.schedule(stream)
        await settle()
        senders.schedule(stream)
        await settle()

    asyncio.run(attach())
    assert stream.times_served == 1
    senders.schedule(late)
    assert late.times_served == 1
    assert senders.close(timeout_s=1)
    assert stream.times_served == 2
