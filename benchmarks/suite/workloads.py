"""Workloads as data: Flover's evaluation and chat mixes, made of `workloads.toml` and fixed seeds.

Knows no model but its vocabulary's size, no server and no clock. Everything random comes from `random.Random`, whose
sequence is the same on every machine and version; a workload's draws depend on its own seed alone.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import tomllib
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.suite.workload import BenchRequest, Workload
from flover_backend.errors import ConfigError

SEED = 1
DATA = Path(__file__).with_name("workloads.toml")
REFERENCE_PAPER = "13b"
"""Whose lone request stands for that of a model that the paper did not measure."""


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sizes and gaps of Flover's workloads. Gaps are milliseconds of the paper's machine."""

    prompt: int
    total: int
    """Prompt and new tokens of a request, where lengths are equal."""
    min_total: int
    """Least of the random totals; the most are `max_totals`."""
    max_totals: tuple[int, ...]
    requests: tuple[int, ...]
    constant_ms: float
    poisson_ms: tuple[float, ...]
    windows_ms: tuple[float, ...]
    """Of dynamic batching."""
    batch_sizes: tuple[int, ...]
    """Of static batches."""
    chat: tuple[str, ...]
    """Names of chat mixes for the bare engine."""
    chat_through: tuple[str, ...]
    """Likewise through servers."""
    budget_s: float | None = None
    """What all runs may take by estimate; the last ones that do not fit are left out. None: no limit."""

    def shortened(self, total: int) -> Profile:
        """The same with equal totals of `total` tokens, and the random ones in proportion."""
        share = total / self.total
        least = max(self.prompt + 1, round(self.min_total * share))
        most = tuple(dict.fromkeys(max(least, round(tokens * share)) for tokens in self.max_totals))
        return msgspec.structs.replace(self, total=total, min_total=least, max_totals=most)

    def longest(self) -> int:
        """Tokens of the longest sequence but for the chat mixes'."""
        return max(self.total, *self.max_totals) if self.max_totals else self.total


class ChatMix(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Uniform prompt and output lengths, both ends included, and Poisson rates a second (not scaled)."""

    prompts: tuple[int, int]
    outputs: tuple[int, int]
    rates: tuple[float, ...]
    requests: int
    seed: int


class Paper(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the paper measured of a model, on its machine."""

    title: str
    single_s: float
    """A lone request of 8 + 504 tokens."""
    poisson_single_s: float
    sizes: tuple[int, int, int]
    """Of the model: hidden, inner, layers."""
    speed_up: dict[int, float] = {}
    """Over concurrent model instances, by number of requests at 500 ms."""
    poisson_speed_up: dict[int, float] = {}
    """Likewise of 32 requests, by the gaps' mean in ms."""
    reorder_gain: dict[int, float] = {}
    """Total time without reordering over that with it, by the most of the random totals."""


class Data(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file `workloads.toml`."""

    profiles: dict[str, Profile]
    chat: dict[str, ChatMix]
    papers: dict[str, Paper]


@cache
def data() -> Data:
    """The file that comes with the suite."""
    return msgspec.convert(tomllib.loads(DATA.read_text()), Data, str_keys=True, strict=False)


def profile(name: str) -> Profile:
    """By its name in `workloads.toml`. Raises `ConfigError`, naming those there are."""
    profiles = data().profiles
    if name not in profiles:
        raise ConfigError(f"profile {name!r}; allowed: {', '.join(profiles)}")
    return profiles[name]


def paper_of(model: str) -> tuple[str, Paper]:
    """(name, times) of the paper's model that gaps are scaled by: `model` itself, or else LLaMA-13B."""
    name = model if model in data().papers else REFERENCE_PAPER
    return name, data().papers[name]


def constant(
    num_requests: int, paper_gap_ms: float, scale: float, sizes: Profile, vocab_size: int, seed: int = SEED
) -> Workload:
    """Requests of equal length, a constant gap apart; 0 ms is a burst."""
    totals = [sizes.total] * num_requests
    name = f"constant-{paper_gap_ms:g}ms-{num_requests}" if paper_gap_ms else f"burst-{num_requests}"
    gaps = [paper_gap_ms * scale] * num_requests
    return _flover(name, "constant", totals, gaps, sizes, vocab_size, seed, paper_gap_ms=paper_gap_ms, scale=scale)


def burst(num_requests: int, sizes: Profile, vocab_size: int, seed: int = SEED) -> Workload:
    """Requests of equal length, all at once."""
    return constant(num_requests, 0.0, 1.0, sizes, vocab_size, seed)


def poisson(
    num_requests: int, paper_mean_ms: float, scale: float, sizes: Profile, vocab_size: int, seed: int = SEED
) -> Workload:
    """Requests of equal length, exponential gaps whose mean is `paper_mean_ms` scaled.

    The same seed draws the same gaps at every mean, but for their unit: a sweep differs in its mean alone.
    """
    source = random.Random(f"poisson {seed}")
    gaps = [source.expovariate(1.0) * paper_mean_ms * scale for _ in range(num_requests)]
    totals = [sizes.total] * num_requests
    name = f"poisson-{paper_mean_ms:g}ms-{num_requests}"
    return _flover(name, "poisson", totals, gaps, sizes, vocab_size, seed, paper_gap_ms=paper_mean_ms, scale=scale)


def random_totals(
    num_requests: int,
    max_total: int,
    paper_gap_ms: float,
    scale: float,
    sizes: Profile,
    vocab_size: int,
    seed: int = SEED,
) -> Workload:
    """Totals uniform in [min_total, max_total], a constant gap apart (section 5's reordering)."""
    source = random.Random(f"totals {seed}")
    shares = [source.random() for _ in range(num_requests)]
    low = sizes.min_total
    totals = [low + int(share * (max_total - low + 1)) for share in shares]
    gaps = [paper_gap_ms * scale] * num_requests
    facts = {"paper_gap_ms": paper_gap_ms, "scale": scale, "max_total": max_total, "min_total": low}
    name = f"random-totals-{max_total}-{num_requests}"
    return _flover(name, "random-totals", totals, gaps, sizes, vocab_size, seed, **facts)


def _flover(
    name: str,
    kind: str,
    totals: Sequence[int],
    gaps_ms: Sequence[float],
    sizes: Profile,
    vocab_size: int,
    seed: int,
    **facts: Any,
) -> Workload:
    """`gaps_ms[i]` follows request i, so that the last is unused."""
    if not totals or min(totals) <= sizes.prompt:
        raise ConfigError(
            f"workload {name}: totals of {min(totals, default=0)} tokens with prompts of {sizes.prompt}; "
            "allowed: at least one request, each with room for a new token"
        )
    prompts = prompt_ids([sizes.prompt] * len(totals), vocab_size, seed)
    times = _times(gaps_ms)
    facts = {
        "num_requests": len(totals),
        "prompt": sizes.prompt,
        "max_total": max(totals),
        "gap_ms": times[-1] * 1e3 / (len(times) - 1) if len(times) > 1 else 0.0,
        "seed": seed,
    } | facts
    made = zip(times, prompts, totals, strict=True)
    return Workload(name, kind, tuple(BenchRequest(at, ids, total - len(ids)) for at, ids, total in made), facts)


def chat(mix: ChatMix, rate: float, vocab_size: int, name: str = "mix") -> Workload:
    """Uniform lengths, Poisson arrivals at `rate` a second. Lengths are the same at every rate."""
    lengths = random.Random(f"lengths {mix.seed}")
    prompt_lengths = [lengths.randint(*mix.prompts) for _ in range(mix.requests)]
    outputs = [lengths.randint(*mix.outputs) for _ in range(mix.requests)]
    source = random.Random(f"arrivals {mix.seed}")
    times = _times([source.expovariate(1.0) * 1e3 / rate for _ in range(mix.requests)])
    facts = {
        "num_requests": mix.requests,
        "rate": rate,
        "gap_ms": 1e3 / rate,
        "prompts": list(mix.prompts),
        "outputs": list(mix.outputs),
        "max_total": mix.prompts[1] + mix.outputs[1],
        "seed": mix.seed,
    }
    made = zip(times, prompt_ids(prompt_lengths, vocab_size, mix.seed), outputs, strict=True)
    return Workload(f"chat-{name}-{rate:g}", "chat", tuple(BenchRequest(*one) for one in made), facts)


def chat_sweep(name: str, vocab_size: int, rates: Sequence[float] = ()) -> list[Workload]:
    """The named chat mix at each of its rates, or at `rates`. Raises `ConfigError` for an unknown name."""
    mixes = data().chat
    if name not in mixes:
        raise ConfigError(f"chat mix {name!r}; allowed: {', '.join(mixes)}")
    return [chat(mixes[name], rate, vocab_size, name) for rate in rates or mixes[name].rates]


def prompt_ids(lengths: Iterable[int], vocab_size: int, seed: int) -> list[tuple[int, ...]]:
    """Random token ids above the usual special ones, below `vocab_size`."""
    source = random.Random(f"prompts {seed}")
    return [tuple(source.randrange(3, vocab_size) for _ in range(length)) for length in lengths]


def _times(gaps_ms: Sequence[float]) -> list[float]:
    """Seconds; the first request is at 0."""
    return [0.0, *(sum_ms / 1e3 for sum_ms in itertools.accumulate(gaps_ms[:-1]))][: len(gaps_ms)]


def digest(workload: Workload) -> str:
    """Of its requests, times to the microsecond: equal on every machine."""
    told = [(round(r.at * 1e6), r.prompt, r.new_tokens) for r in workload.requests]
    return hashlib.sha256(repr(told).encode()).hexdigest()[:16]
