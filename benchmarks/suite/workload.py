"""What is asked of a server: requests with their times, as plain data. Knows no engine, no server, no clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class BenchRequest:
    """A greedy request of exactly `new_tokens` tokens, `at` seconds after the run's start."""

    at: float
    prompt: tuple[int, ...]
    new_tokens: int


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests in order of arrival. The same seed gives the same ones, on every machine."""

    name: str
    """Unique within a run of the suite, such as `constant-500ms-32`."""
    kind: str
    """`constant`, `poisson`, `random-totals` or `chat`."""
    requests: tuple[BenchRequest, ...]
    facts: dict[str, Any] = field(default_factory=dict)
    """How it was made, for the results: num_requests, gap_ms (as used, mean), paper_gap_ms (before scaling), max_total,
    seed, rate."""
