"""The sizes of every measurement, and the requests of each. Nothing here runs anything."""

from __future__ import annotations

import random
from dataclasses import dataclass

from flover_backend.bench_engine.drive import Arrival, prompts, together


@dataclass(frozen=True, slots=True)
class Sizes:
    """As the table asks; the tests take smaller ones."""

    rows: tuple[int, ...] = (1, 8, 32, 64, 128, 256)
    prompt: int = 8
    new_tokens: int = 504
    spaced: int = 32
    """Requests of each Poisson workload."""
    at_once: int = 64
    gap_scale: float = 1.0
    burst: int = 32
    burst_repeats: int = 7
    join_rows: int = 32
    join_prompt: int = 4096
    join_after: int = 60
    """Undisturbed iterations before the join."""
    join_repeats: int = 5
    prefill_prompts: int = 16
    prefill_tokens: int = 8192
    prefill_repeats: int = 7
    profiled: int = 50
    dense: int = 8192


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests with their arrival times; `last` is the last one's."""

    name: str
    arrivals: list[Arrival]

    @property
    def last(self) -> float:
        """Seconds after the start."""
        return max(arrival.at for arrival in self.arrivals)


def arrival_workloads(sizes: Sizes, vocab_size: int) -> list[Workload]:
    """Two Poisson processes of full-length requests and a burst of random lengths, all from one `random.Random(1)`.

    Each gap comes after an arrival, so the last is unused.
    """
    source = random.Random(1)
    short = [source.expovariate(1 / 0.02) for _ in range(sizes.spaced)]
    long = [source.expovariate(1 / 0.1) for _ in range(sizes.spaced)]
    lengths = [source.randint(1, sizes.new_tokens) for _ in range(sizes.at_once)]
    spaced = prompts(sizes.spaced, sizes.prompt, vocab_size)
    return [
        *(
            Workload(name, _spaced([gap * sizes.gap_scale for gap in gaps], spaced, sizes.new_tokens))
            for name, gaps in (("poisson 20 ms", short), ("poisson 100 ms", long))
        ),
        Workload("64 at once", together(prompts(sizes.at_once, sizes.prompt, vocab_size), lengths)),
    ]


def _spaced(gaps: list[float], prompt_ids: list[list[int]], new_tokens: int) -> list[Arrival]:
    at, arrivals = 0.0, []
    for gap, ids in zip(gaps, prompt_ids, strict=True):
        arrivals.append(Arrival(at, ids, new_tokens))
        at += gap
    return arrivals


def burst(sizes: Sizes, rows: int, vocab_size: int, new_tokens: int | None = None) -> list[Arrival]:
    """`rows` short prompts at once."""
    return together(prompts(rows, sizes.prompt, vocab_size), new_tokens or sizes.new_tokens)


def mixed_prompts(sizes: Sizes, vocab_size: int, seed: int) -> list[Arrival]:
    """Prompts of random lengths that add up to `prefill_tokens`, one token each."""
    source, count = random.Random(seed), sizes.prefill_prompts
    cuts = sorted(source.sample(range(1, sizes.prefill_tokens), count - 1))
    lengths = [b - a for a, b in zip([0, *cuts], [*cuts, sizes.prefill_tokens], strict=True)]
    return together([prompts(1, n, vocab_size, seed + i)[0] for i, n in enumerate(lengths)], 1)


def equal_prompts(sizes: Sizes, vocab_size: int, seed: int) -> list[Arrival]:
    """The same number of tokens in prompts of one length."""
    return together(prompts(sizes.prefill_prompts, sizes.prefill_tokens // sizes.prefill_prompts, vocab_size, seed), 1)
