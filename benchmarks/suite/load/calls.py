"""What is sent, and what came of it: plain data that travels between processes. Knows no gRPC, no server."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.pa.errors import MeasurementFailed
from benchmarks.suite.workload import Workload

Times = np.ndarray[Any, np.dtype[np.float64]]
Counts = np.ndarray[Any, np.dtype[np.int32]]


@dataclass(frozen=True, slots=True)
class Call:
    """A greedy request of exactly `new_tokens` tokens, `at` seconds after the run's start."""

    at: float
    prompt: tuple[int, ...]
    new_tokens: int
    streams: bool = True
    """False: one response, with all tokens."""
    cancel_after: int | None = None
    """Its stream is cancelled once so many tokens came; 0: as soon as it is sent."""
    deadline_ms: int | None = None
    """The request's own."""
    message: bytes = b""
    """A ModelInferRequest to send instead of one made of the above."""
    batched: bool = False
    """For a model with max_batch_size: tensors with a first dimension of 1, prompt and number of tokens alone."""


@dataclass(slots=True)
class Answer:
    """Times are seconds after the run's start, on the clock that all processes share (CLOCK_MONOTONIC)."""

    sent: float
    ended: float
    """When the stream was over."""
    times: Times = field(default_factory=lambda: np.empty(0))
    """float64 [responses]: when each came."""
    tokens: Counts = field(default_factory=lambda: np.empty(0, np.int32))
    """int32 [responses]: how many tokens it held."""
    finish: str = ""
    """Of the last response, where `finish_reason` was asked for; of several sequences with commas between."""
    code: str = ""
    """Of a request that failed, such as UNAVAILABLE or INVALID_ARG; empty for others, cancelled ones too."""
    message: str = ""
    cancelled: bool = False
    """By `Call.cancel_after`."""

    @property
    def num_tokens(self) -> int:
        """That came."""
        return int(self.tokens.sum())


@dataclass(frozen=True, slots=True)
class Mix:
    """Shares of the requests, from 0 to 1, that are sent in another way."""

    cancel_share: float = 0.0
    """Cancelled after a random number of tokens, from 0 to one less than they ask for."""
    whole_share: float = 0.0
    """Answered in one response."""
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("cancel_share", "whole_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise MeasurementFailed(f"{name} is {getattr(self, name):g}; allowed is 0 to 1")


def calls_of(workload: Workload, mix: Mix | None = None) -> list[Call]:
    """In order of arrival. One that is not streamed is cancelled as soon as it is sent, if it is at all."""
    mix = mix or Mix()
    source = random.Random(mix.seed)
    calls = []
    for request in workload.requests:
        streams, cancels = source.random() >= mix.whole_share, source.random() < mix.cancel_share
        after = source.randrange(request.new_tokens) if streams else 0
        calls.append(Call(request.at, request.prompt, request.new_tokens, streams, after if cancels else None))
    return calls
