"""When each request arrives, what it asks and how long its answer may be. Everything follows from one seed."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

from flover_backend.demo.questions import QUESTIONS
from flover_backend.errors import InvalidRequest

SEED = 2023
MEAN_GAP_S = 0.3
ANSWER_TOKENS = 128


@dataclass(frozen=True)
class Arrival:
    """One request of the demo."""

    time_s: float
    """After the first one, which is at 0."""
    question: str
    max_tokens: int
    exact: bool = False
    """Go on to max_tokens, whatever the model says."""


@dataclass(frozen=True)
class Lengths:
    """Uniformly random answer lengths in tokens, both ends included."""

    low: int
    high: int


def parse_lengths(text: str) -> Lengths:
    """`Lengths(128, 512)` for `128:512`. Raises `InvalidRequest`."""
    low, _, high = text.partition(":")
    if not (low.isdecimal() and high.isdecimal() and 1 <= int(low) <= int(high)):
        raise InvalidRequest(f"--lengths is {text!r}; allowed is LOW:HIGH with 1 <= LOW <= HIGH, such as 128:512")
    return Lengths(int(low), int(high))


def make_schedule(num_requests: int, gap_s: float | None = None, lengths: Lengths | None = None) -> list[Arrival]:
    """`num_requests` arrivals: at constant gaps of `gap_s`, or else of a Poisson process.

    `lengths` None: an answer ends where the model ends it, at 128 tokens at most.
    """
    chance = random.Random(SEED)
    gaps = [chance.expovariate(1 / MEAN_GAP_S) if gap_s is None else gap_s for _ in range(num_requests - 1)]
    times = itertools.accumulate(gaps, initial=0.0)
    questions = itertools.cycle(QUESTIONS)
    return [_arrival(time, question, lengths, chance) for time, question in zip(times, questions, strict=False)]


def _arrival(time: float, question: str, lengths: Lengths | None, chance: random.Random) -> Arrival:
    if lengths is None:
        return Arrival(time, question, ANSWER_TOKENS)
    return Arrival(time, question, chance.randint(lengths.low, lengths.high), exact=True)
