"""What the requests ask: prompts and lengths that follow from a seed, as perf_analyzer's input file.

Every request has its own prompt, output length and sampling seed, as tensors of this backend. Knows no mode.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.pa.errors import MeasurementFailed

FIRST_ORDINARY_ID = 3
"""Smaller ones are special tokens of most models."""
Entry = dict[str, Any]
"""A request's tensors by name, as perf_analyzer reads them: a flat list, or one with its shape."""


@dataclass(frozen=True)
class Lengths:
    """Uniformly random lengths in tokens, both ends included; a fixed one where they are equal."""

    low: int
    high: int

    def draw(self, source: random.Random) -> int:
        """One of them."""
        return source.randint(self.low, self.high)


def parse_lengths(text: str, flag: str) -> Lengths:
    """`Lengths(64, 64)` for `64`, `Lengths(32, 512)` for `32:512`. Raises `MeasurementFailed` naming the flag."""
    low, _, high = text.partition(":")
    high = high or low
    if not (low.isdecimal() and high.isdecimal() and 1 <= int(low) <= int(high)):
        raise MeasurementFailed(f"{flag} is {text!r}; allowed is a number from 1 on, such as 64, or LOW:HIGH as 32:512")
    return Lengths(int(low), int(high))


@dataclass(frozen=True)
class Prompts:
    """Where prompts come from: `texts` in turn, or else random ids below `vocab_size` of `lengths`."""

    lengths: Lengths = Lengths(8, 8)
    vocab_size: int = 1000
    texts: Sequence[str] = ()

    def draw(self, number: int, source: random.Random) -> Entry:
        """The prompt tensor of one request."""
        if self.texts:
            return {"text_input": [self.texts[number % len(self.texts)]]}
        ids = [source.randrange(FIRST_ORDINARY_ID, self.vocab_size) for _ in range(self.lengths.draw(source))]
        return {"input_ids": {"content": ids, "shape": [len(ids)]}}


def make_entries(count: int, prompts: Prompts, outputs: Lengths, seed: int, temperature: float) -> list[Entry]:
    """`count` requests that each go on to exactly their output length."""
    source = random.Random(seed)
    return [
        prompts.draw(number, source)
        | {
            "max_tokens": [outputs.draw(source)],
            "stream": [True],
            "ignore_eos": [True],
            "temperature": [temperature],
            "seed": [source.getrandbits(32)],
            "return_num_output_tokens": [True],
        }
        for number in range(count)
    ]


def make_intervals(count: int, rate: float, seed: int) -> list[int]:
    """Microseconds before each of `count` requests of a Poisson process with `rate` arrivals a second."""
    source = random.Random(seed)
    return [round(source.expovariate(rate) * 1e6) for _ in range(count)]
