"""The parts of the command: bursts and the chat mix through Triton, a burst through PyTriton, each beside the engine.

An engine of its own runs first and ends before a server starts: one at a time has the GPU.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.pa.errors import MeasurementFailed
from benchmarks.pa.run import Target
from benchmarks.suite.layers.client import Analyzer, generate, warm_up
from benchmarks.suite.layers.model import model_name
from benchmarks.suite.layers.program import PyTritonLayer
from benchmarks.suite.layers.server import TritonLayer
from benchmarks.suite.result import Run
from benchmarks.suite.workload import BenchRequest, Workload
from benchmarks.suite.workloads import ChatMix, chat, prompt_ids
from benchmarks.through_triton.bare import Bare, BareRun, measure_bare
from flover_backend.bench_engine.shapes import SHAPES
from flover_backend.front.model_dir import resolve_model_dir

MANY_STREAMS = 256
"""Bursts from here on are repeated twice at most: they vary little and take long."""
DEFAULT_MAX_ROWS = 256
CHAT_PARTS = ("chat", "chat, own generator")
"""Lines of the chat mix: by perf_analyzer, and by the suite's own generator."""
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """The command line."""

    model: str
    streams: tuple[int, ...]
    prompt: int = 8
    new: int = 504
    repeats: int = 3
    chat_requests: int = 300
    chat_rate: float = 20.0
    chat_prompts: tuple[int, int] = (32, 512)
    chat_outputs: tuple[int, int] = (16, 256)
    pytriton_streams: int = 32
    analyzer: Path | None = None
    instances: int | None = None
    profile_streams: int = 256
    counts: tuple[int, ...] = (1, 2, 4, 8)
    senders: tuple[int, ...] = (1, 2, 4)
    keys: dict[str, Any] = field(default_factory=dict)
    """Of model.json, for engine and servers alike."""


class Seen(msgspec.Struct, kw_only=True):
    """One run of a workload, as its client saw it. Milliseconds unless the name says otherwise."""

    wall_s: float
    tokens_per_s: float
    first_p50: float
    first_p99: float
    gap_p50: float
    gap_p99: float
    together: float
    """Share of the tokens that came in a response with an earlier one."""
    num_requests: int
    num_short: int
    """Requests with fewer tokens than asked, or an error."""


class Measured(msgspec.Struct, kw_only=True):
    """A line of the table."""

    part: str
    """`burst`, `chat`, `chat, own generator` or `pytriton`."""
    model: str
    streams: int
    """Requests of the workload."""
    seen: list[Seen]
    """One each repeat that was measured; empty where none was."""
    bare: list[BareRun] = []
    """The engine on the same workload; empty for the chat mix."""

    @property
    def title(self) -> str:
        """In words."""
        return f"{self.model}, {self.part} of {self.streams}"

    def median(self, name: str) -> float:
        """Of a figure of `Seen` over the repeats."""
        return float(statistics.median(getattr(one, name) for one in self.seen))

    @property
    def share(self) -> float | None:
        """Of the engine's tokens/s, which is that of its wall time: the tokens are the same."""
        if not self.bare or not self.seen:
            return None
        return statistics.median(run.wall_s for run in self.bare) / self.median("wall_s")


def burst(streams: int, prompt: int, new: int, vocab_size: int) -> Workload:
    """All at once."""
    prompts = prompt_ids([prompt] * streams, vocab_size, 1)
    facts = {"num_requests": streams, "prompt": prompt, "max_total": prompt + new, "seed": 1}
    return Workload(f"burst-{streams}", "constant", tuple(BenchRequest(0.0, ids, new) for ids in prompts), facts)


def vocab_size(model: str) -> int:
    """As config.json says."""
    return int(_config(model)["vocab_size"])


def max_tokens(model: str) -> int:
    """Of a request, its prompt included, as config.json says."""
    config = _config(model)
    return int(config["n_positions"] if "n_positions" in config else config["max_position_embeddings"])


def _config(model: str) -> dict[str, Any]:
    if model in SHAPES:
        return SHAPES[model].config
    found: dict[str, Any] = json.loads((resolve_model_dir(model, Path.cwd()) / "config.json").read_text())
    return found


def max_rows_of(streams: int) -> dict[str, int]:
    """`max_rows` for a burst that the default has no rows for."""
    return {"max_rows": streams} if streams > DEFAULT_MAX_ROWS else {}


class Through:
    """Measures parts one after another, and keeps the engine's figures that several parts need."""

    def __init__(self, asked: Asked, tell: Tell) -> None:
        self.asked, self._tell = asked, tell
        self._vocab_size = vocab_size(asked.model)
        self.bare: Bare | None = None
        self._bare: dict[int, list[BareRun]] = {}

    def bare_wall_s(self, streams: int) -> float | None:
        """Median of the engine's, where it was measured."""
        runs = self.bare_runs(streams)
        return statistics.median(run.wall_s for run in runs) if runs else None

    def bare_runs(self, streams: int) -> list[BareRun]:
        """The engine's on a burst; empty where it was not measured."""
        return self._bare.get(streams, [])

    def burst(self, streams: int) -> Workload:
        """Of the asked size and model."""
        return burst(streams, self.asked.prompt, self.asked.new, self._vocab_size)

    def _repeats(self, streams: int, most: int = 2) -> int:
        return self.asked.repeats if streams < MANY_STREAMS else min(self.asked.repeats, most)

    def wanted(self, parts: Sequence[str]) -> list[Measured]:
        """The lines that these parts are to measure, none of them measured."""
        asked = self.asked
        lines = [("burst", count) for count in asked.streams if "burst" in parts]
        lines += [(part, asked.chat_requests) for part in CHAT_PARTS if "chat" in parts]
        lines += [("pytriton", asked.pytriton_streams)] if "pytriton" in parts else []
        return [Measured(part=part, model=model_name(asked.model), streams=n, seen=[]) for part, n in lines]

    def measure_engine(self, streams: Sequence[int]) -> None:
        """Bursts that share `max_rows` share an engine."""
        wanted = [count for count in dict.fromkeys(streams) if count not in self._bare]
        for keys in _grouped(wanted):
            group = [count for count in wanted if max_rows_of(count) == keys]
            works = [(self.burst(count), self._repeats(count)) for count in group]
            found = measure_bare(
                self.asked.model, works, self._tell, probes=self.bare is None, **self.asked.keys, **keys
            )
            self.bare = self.bare or found
            self._bare |= {count: found.runs[work.name] for count, (work, _) in zip(group, works, strict=True)}

    def probe(self) -> None:
        """The machine and its probes, where no part has measured the engine."""
        if self.bare is None:
            self.bare = measure_bare(self.asked.model, [], self._tell, **self.asked.keys)

    def bursts_and_chat(self, bursts: Sequence[int], with_chat: bool) -> Iterator[Measured]:
        """A server for those that share `max_rows`; the chat mix goes to the one with the default."""
        groups = _grouped(bursts)
        if with_chat and {} not in groups:
            groups.append({})
        for keys in groups:
            group = [count for count in bursts if max_rows_of(count) == keys]
            with self._served(keys) as (target, analyzer):
                for count in group:
                    yield self._measured("burst", count, target, analyzer, self._repeats(count, 3 if not keys else 2))
                if with_chat and not keys:
                    yield from self._chat(target, analyzer)

    @contextmanager
    def _served(self, keys: dict[str, int]) -> Iterator[tuple[Target, Analyzer]]:
        asked = self.asked
        settings = asked.keys | keys
        layer = TritonLayer(asked.model, "auto", self._tell, instances=asked.instances, **settings)
        with tempfile.TemporaryDirectory(prefix="flover-perf-") as libraries, layer:
            analyzer = Analyzer.find(asked.analyzer, Path(libraries), self._tell)
            generate(layer.target, warm_up(self.burst(4)), "triton", asked.model, 1)
            yield layer.target, analyzer

    def _measured(self, part: str, count: int, target: Target, analyzer: Analyzer, repeats: int) -> Measured:
        work = self.burst(count)
        seen = []
        for _ in range(repeats):
            try:
                seen.append(seen_of(analyzer.run(target, work, self.asked.model), work))
            except MeasurementFailed as error:
                self._tell(f"{part} of {count}: NOT MEASURED: {error}")
                continue
            self._tell(f"{part} of {count}: {in_words(seen[-1])}")
        return Measured(
            part=part, model=model_name(self.asked.model), streams=count, seen=seen, bare=self.bare_runs(count)
        )

    def _chat(self, target: Target, analyzer: Analyzer) -> Iterator[Measured]:
        asked, model = self.asked, model_name(self.asked.model)
        rate, count = asked.chat_rate, asked.chat_requests
        mix = ChatMix(prompts=asked.chat_prompts, outputs=asked.chat_outputs, rates=(rate,), requests=count, seed=1)
        work = chat(mix, rate, self._vocab_size, "through-triton")
        clients: dict[str, Callable[[], Run]] = {
            CHAT_PARTS[0]: lambda: analyzer.run(target, work, model),
            CHAT_PARTS[1]: lambda: generate(target, work, "triton", model),
        }
        for part, run in clients.items():
            seen = []
            for _ in range(asked.repeats):
                try:
                    seen.append(seen_of(run(), work))
                except MeasurementFailed as error:
                    self._tell(f"{part}: NOT MEASURED: {error}")
                    continue
                self._tell(f"{part}: {in_words(seen[-1])}")
            yield Measured(part=part, model=model, streams=count, seen=seen)

    def pytriton(self) -> Measured:
        """A burst on a PyTriton program."""
        asked = self.asked
        layer = PyTritonLayer(asked.model, "auto", self._tell, **asked.keys)
        with tempfile.TemporaryDirectory(prefix="flover-perf-") as libraries, layer:
            analyzer = Analyzer.find(asked.analyzer, Path(libraries), self._tell)
            generate(layer.target, warm_up(self.burst(4)), "pytriton", asked.model, 1)
            return self._measured("pytriton", asked.pytriton_streams, layer.target, analyzer, asked.repeats)


def _grouped(streams: Sequence[int]) -> list[dict[str, int]]:
    groups: list[dict[str, int]] = []
    for count in streams:
        if max_rows_of(count) not in groups:
            groups.append(max_rows_of(count))
    return groups


def seen_of(run: Run, work: Workload) -> Seen:
    """First tokens count from when a request was sent."""
    firsts = sorted((one.first - one.sent) * 1e3 for one in run.requests)
    tokens = sum(one.new_tokens for one in run.requests)
    asked = sum(one.new_tokens for one in work.requests)
    short = sum(bool(one.error) for one in run.requests) + (asked != tokens)
    return Seen(
        wall_s=run.wall_s,
        tokens_per_s=tokens / run.wall_s,
        first_p50=_percentile(firsts, 50),
        first_p99=_percentile(firsts, 99),
        gap_p50=run.gaps_ms.get("p50", 0.0),
        gap_p99=run.gaps_ms.get("p99", 0.0),
        together=1 - (run.num_responses or 0) / max(1, tokens),
        num_requests=len(run.requests),
        num_short=short,
    )


def _percentile(ordered: Sequence[float], percent: int) -> float:
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def in_words(seen: Seen) -> str:
    """One line while it runs."""
    short = f"; {seen.num_short} SHORT" if seen.num_short else ""
    return (
        f"{seen.wall_s:.3f} s, {seen.tokens_per_s:.0f} tokens/s, "
        f"first {seen.first_p50:.1f} p99 {seen.first_p99:.1f} ms, "
        f"gap p99 {seen.gap_p99:.2f} ms, {seen.together:.1%} together{short}"
    )
