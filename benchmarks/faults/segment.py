"""A stretch of load on a server: the clients' answers beside the engine's own counts, on one clock.

Tokens a second come from the engine, so that a client that lags does not look like a slow server.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from benchmarks.pa.run import Target
from benchmarks.suite.load.calls import Answer, Call
from benchmarks.suite.load.generator import send_calls
from flover_backend.channel import Iteration
from flover_backend.observer import EngineObserver, find_engines
from flover_backend.server import TritonServer


@dataclass(slots=True)
class Segment:
    """What a stretch gave. Times are seconds after its start."""

    calls: Sequence[Call]
    answers: Sequence[Answer]
    iterations: Sequence[Iteration]

    def tokens_per_s(self, begin: float, end: float) -> float:
        """That the engine computed, between two iterations' ends."""
        between = [one for one in self.iterations if begin <= _end(one) <= end]
        return sum(_tokens(one) for one in between[1:]) / (_end(between[-1]) - _end(between[0]))

    def iteration_s(self, percent: float = 50) -> float:
        """A percentile (nearest rank) of the time from one iteration's end to the next one's."""
        gaps = sorted(_end(b) - _end(a) for a, b in itertools.pairwise(self.iterations))
        return gaps[max(0, -(-len(gaps) * int(percent) // 100) - 1)]

    @property
    def accepted(self) -> list[Answer]:
        """Those that were not refused, whatever became of them."""
        return [answer for answer in self.answers if not is_refusal(answer)]

    @property
    def refused(self) -> list[Answer]:
        """For want of room."""
        return [answer for answer in self.answers if is_refusal(answer)]

    def num_short(self) -> int:
        """Accepted requests that did not get every token they asked for."""
        pairs = zip(self.calls, self.answers, strict=True)
        return sum(not is_refusal(answer) and answer.num_tokens != call.new_tokens for call, answer in pairs)


def is_refusal(answer: Answer) -> bool:
    """By a full queue, which says how full it is."""
    return answer.code == "UNAVAILABLE" and answer.message.startswith("the queue is full: ")


def observe(server: TritonServer) -> EngineObserver:
    """A connection to the server's one engine."""
    (engine,) = find_engines(server.pid)
    return EngineObserver.connect(engine, "bench-faults")


def run_segment(server: TritonServer, calls: Sequence[Call], users: int | None = None) -> Segment:
    """Send them, and ask the engine afterwards what it did. Raises `MeasurementFailed`."""
    started: list[float] = []
    with observe(server) as observer:
        begin = max((one.step for one in observer.iterations(0)), default=-1) + 1
        target = Target(server.grpc_url, server.options.name)
        answers = send_calls(target, calls, 1, users=users, on_start=started.append)
        made = [msgspec.structs.replace(one, time=one.time - started[0]) for one in observer.iterations(begin)]
    return Segment(calls, answers, made)


def _end(iteration: Iteration) -> float:
    return iteration.time + iteration.seconds


def _tokens(iteration: Iteration) -> int:
    """Whoever joins has computed its whole prompt, and got its first token."""
    return iteration.decode_tokens + iteration.joins
