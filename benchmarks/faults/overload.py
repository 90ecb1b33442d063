"""Ten times the sustainable request rate, beside a server that is full but not overloaded.

Full: every row and most places of the queue are taken all the time, and nobody is refused, because a client sends its
next request when it has had its answer. What is accepted at ten times the rate finds just such a server. How long that
is follows from the queue: (rows + queue) / requests a second; an operator sets it by `max_queued_requests`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from benchmarks.faults.rows import Row, lost_in_words
from benchmarks.faults.segment import Segment, run_segment
from benchmarks.suite.load.calls import Answer, Call
from benchmarks.suite.workloads import prompt_ids
from flover_backend.config import ModelJson
from flover_backend.server import ServerOptions, TritonServer

TIMES = 10
STREAMS = 8
"""One in so many requests streams; a client on the server's own cores costs more than the server does."""
RAMP_S = 2.0
"""Users come one after another, or the first of them would meet a queue that nobody has left yet."""
REFUSAL_MS, LATENCY_RATIO, THROUGHPUT_RATIO = 50.0, 1.3, 0.95
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Overload:
    """What is asked. Prompts and lengths of answers follow from the seed."""

    max_rows: int = 16
    max_queued_requests: int = 16
    prompt_tokens: int = 16
    new_tokens: tuple[int, int] = (128, 384)
    vocab_size: int = 1536
    seconds: float = 10.0
    """Of each stretch."""
    repeats: int = 3
    seed: int = 1

    def calls(self, count: int, seed: int, gap_s: float, most_late_s: float = float("inf")) -> list[Call]:
        """`gap_s` apart; those of users all at `most_late_s` at the latest."""
        source = random.Random(f"overload {self.seed} {seed}")
        prompts = prompt_ids([self.prompt_tokens] * count, self.vocab_size, source.getrandbits(32))
        lengths = [source.randint(*self.new_tokens) for _ in range(count)]
        times = [min(number * gap_s, most_late_s) for number in range(count)]
        made = zip(times, prompts, lengths, strict=True)
        return [Call(*one, streams=number % STREAMS == 0) for number, one in enumerate(made)]


@dataclass(frozen=True, slots=True)
class Pair:
    """A full stretch, then an overloaded one, on one server."""

    full: Segment
    full_p99_s: float
    full_tokens_per_s: float
    overloaded: Segment
    accepted_p99_s: float
    refused_p99_ms: float
    tokens_per_s: float


def measure_overload(asked: Overload, tell: Tell) -> list[Row]:
    """Starts servers with two fronts. Raises `MeasurementFailed`, `ServerFailed`.

    The first has a queue as deep as it has rows, and full is with the queue full too. The second has a queue of an
    eighth of that, and is held against its rows alone: full is when nobody waits.
    """
    deep = _pairs(asked, asked.max_rows + asked.max_queued_requests - 1, tell)  # one more would be refused at times
    shallow = replace(asked, max_queued_requests=max(1, asked.max_rows // 8), repeats=max(1, asked.repeats - 1))
    return rows_of(asked, deep) + shallow_rows(shallow, _pairs(shallow, asked.max_rows, tell))


def _pairs(asked: Overload, users: int, tell: Tell) -> list[Pair]:
    config = ModelJson(max_rows=asked.max_rows, max_queued_requests=asked.max_queued_requests)
    with TritonServer(ServerOptions(config=config, instances=2)) as server:
        rate = _full(server, asked, users=asked.max_rows, rate=10.0, seconds=3.0, seed=0)[1] / _mean_tokens(asked)
        tell(f"sustainable: {rate:.1f} requests/s with {asked.max_rows} rows, a queue of {asked.max_queued_requests}")
        pairs = []
        for repeat in range(asked.repeats):
            pairs.append(_pair(server, asked, users, rate, repeat))
            tell(_in_words(pairs[-1]))
    return pairs


def rows_of(asked: Overload, pairs: Sequence[Pair]) -> list[Row]:
    """The three bars of overload."""
    row = partial(Row, fault=f"{TIMES} × the sustainable rate", **_counts(asked, pairs))
    return [
        row(figure="a refusal, p99", unit="ms", bar=REFUSAL_MS, values=[pair.refused_p99_ms for pair in pairs]),
        row(
            figure="p99 latency of the accepted, over that with rows and queue full at the sustainable rate",
            bar=LATENCY_RATIO,
            values=[pair.accepted_p99_s / pair.full_p99_s for pair in pairs],
        ),
        row(
            figure="tokens/s, over the best of this stretch and the full one before it",
            bar=THROUGHPUT_RATIO,
            is_floor=True,
            values=[pair.tokens_per_s / max(pair.full_tokens_per_s, pair.tokens_per_s) for pair in pairs],
        ),
    ]


def shallow_rows(asked: Overload, pairs: Sequence[Pair]) -> list[Row]:
    """Against a server in which nobody waits."""
    return [
        Row(
            fault=f"{TIMES} × the sustainable rate, `max_queued_requests` an eighth of `max_rows`",
            figure="p99 latency of the accepted, over that with rows full and nobody waiting",
            bar=LATENCY_RATIO,
            values=[pair.accepted_p99_s / pair.full_p99_s for pair in pairs],
            **_counts(asked, pairs),
        )
    ]


def _counts(asked: Overload, pairs: Sequence[Pair]) -> dict[str, Any]:
    refused = sum(len(pair.overloaded.refused) for pair in pairs)
    accepted = sum(len(pair.overloaded.accepted) for pair in pairs)
    return {
        "injected": f"{len(pairs)} × {asked.seconds:g} s, {refused} refused, {accepted} accepted",
        "lost": lost_in_words(sum(pair.overloaded.num_short() for pair in pairs), accepted),
    }


def _pair(server: TritonServer, asked: Overload, users: int, rate: float, repeat: int) -> Pair:
    full, full_tokens_per_s = _full(server, asked, users, rate, asked.seconds, seed=2 * repeat + 1)
    gap_s = 1 / (TIMES * rate)
    calls = asked.calls(round(asked.seconds / gap_s), 2 * repeat + 2, gap_s)
    overloaded = run_segment(server, calls)
    filled = users / rate / 2
    return Pair(
        full=full,
        full_p99_s=latency_p99(full.accepted, RAMP_S + filled),
        full_tokens_per_s=full_tokens_per_s,
        overloaded=overloaded,
        accepted_p99_s=latency_p99(overloaded.accepted, RAMP_S),
        refused_p99_ms=latency_p99(overloaded.refused) * 1e3,
        tokens_per_s=overloaded.tokens_per_s(RAMP_S, asked.seconds),
    )


def _full(
    server: TritonServer, asked: Overload, users: int, rate: float, seconds: float, seed: int
) -> tuple[Segment, float]:
    """The stretch, and its tokens a second while all users are there."""
    calls = asked.calls(users + round(rate * (RAMP_S + seconds)), seed, RAMP_S / users, RAMP_S)
    segment = run_segment(server, calls, users)
    return segment, segment.tokens_per_s(RAMP_S, max(answer.sent for answer in segment.answers))


def latency_p99(answers: Sequence[Answer], since: float = 0.0) -> float:
    """Seconds (nearest rank), of those sent `since` then."""
    times = [answer.ended - answer.sent for answer in answers if answer.sent >= since]
    return float(np.percentile(times, 99, method="inverted_cdf")) if times else float("nan")


def _mean_tokens(asked: Overload) -> float:
    return sum(asked.new_tokens) / 2


def _in_words(pair: Pair) -> str:
    over = pair.overloaded
    return (
        f"full: p99 {pair.full_p99_s:.2f} s, {pair.full_tokens_per_s:.0f} tokens/s, {len(pair.full.refused)} refused; "
        f"{TIMES} x: p99 {pair.accepted_p99_s:.2f} s, {pair.tokens_per_s:.0f} tokens/s, {len(over.accepted)} accepted, "
        f"{len(over.refused)} refused within {pair.refused_p99_ms:.1f} ms (p99)"
    )
