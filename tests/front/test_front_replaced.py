"""An instance that Triton keeps although a later load serves: it leaves its engine when nothing can be lost by that."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fake_triton import TritonError
from front_host import FrontHost, started

from flover_backend.front.live import LiveRequests
from flover_backend.front.replaced import LOOK_S, PATIENCE_S, Replaced
from flover_backend.request import FinishReason


class FakeGeneration:
    """What the files say."""

    def __init__(self) -> None:
        self.replaced = False
        self.told = 0

    def serves(self) -> None:
        self.told += 1

    def is_replaced(self) -> bool:
        return self.replaced


class Time:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Watched:
    """A front's chore with its clock; `look(seconds)` lets time pass."""

    def __init__(self, host: FrontHost) -> None:
        self.host, self.time, self.generation = host, Time(), FakeGeneration()
        service = host.service
        self._chore = Replaced(
            service._admission,
            service._live,
            service._client,
            self.generation,  # type: ignore[arg-type]
            service.log,
            self.time,
        )

    def look(self, seconds: float = LOOK_S) -> bool:
        """Whether it has left its engine."""
        end = self.time.now + seconds
        while self.time.now < end:
            self.time.now += LOOK_S
            self._chore()
        return self.host.client.is_closed


@pytest.fixture
def watched(host: FrontHost) -> Iterator[Watched]:
    yield Watched(host)


def test_it_says_once_that_requests_come(watched: Watched, host: FrontHost) -> None:
    watched.look(20)
    assert watched.generation.told == 0
    sender, request = started(host)
    host.tokens(request, [40], FinishReason.LENGTH)
    sender.wait()
    watched.look(20)
    assert watched.generation.told == 1
    assert not host.client.is_closed


def test_it_leaves_when_it_has_been_idle_and_replaced_for_a_while(watched: Watched, host: FrontHost) -> None:
    watched.generation.replaced = True
    sender, request = started(host)
    assert not watched.look(10 * PATIENCE_S), "a request lives"
    host.tokens(request, [40], FinishReason.LENGTH)
    sender.wait()
    assert not watched.look(PATIENCE_S)
    watched.generation.replaced = False
    assert not watched.look(LOOK_S), "the later load has gone"
    watched.generation.replaced = True
    assert not watched.look(PATIENCE_S)
    assert watched.look(2 * LOOK_S)
    error = host.ask([1]).error()
    assert error.code == TritonError.UNAVAILABLE


def test_a_request_that_comes_at_the_last_moment_is_served(
    watched: Watched, host: FrontHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.generation.replaced = True
    assert not watched.look(PATIENCE_S)
    asked = []
    seen = LiveRequests.all

    def all_and_one_more(live: LiveRequests) -> list[object]:
        found = seen(live)
        if not found and not asked:
            asked.append(started(host))
        return found  # type: ignore[return-value]

    monkeypatch.setattr(LiveRequests, "all", all_and_one_more)
    assert not watched.look(2 * LOOK_S)
    ((sender, request),) = asked
    host.tokens(request, [40], FinishReason.LENGTH)
    assert len(sender.wait()) == 1
    later, request = started(host)
    host.tokens(request, [41], FinishReason.LENGTH)
    assert len(later.wait()) == 1
