"""Which workloads are served in which ways, in what order, and how long that should take. Runs nothing.

What the papers' tables need most comes first; where the estimates exceed the profile's budget, the last are left out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.suite.batching import DEFAULT_BATCH, expected_end
from benchmarks.suite.workload import Workload
from benchmarks.suite.workloads import Profile, burst, chat_sweep, constant, poisson, random_totals

WAYS = ("fused", "none", "serial", "instances", "dynamic", "static")
LAYERS = ("engine", "triton", "pytriton", "perf_analyzer")
WORKLOADS = ("burst", "constant", "poisson", "random-totals", "chat")
"""What the names of a profile's workloads begin with."""
OVERHEAD_S = 0.3
"""Of starting a run."""


@dataclass(frozen=True, slots=True)
class Planned:
    """One run: a workload in a way through a layer."""

    layer: str
    way: str
    workload: Workload
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """In words."""
        more = "".join(f", {name} {value:g}" for name, value in self.settings.items())
        return f"{self.workload.name}: {self.way}{more}" + ("" if self.layer == "engine" else f" through {self.layer}")


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds of a run, from a lone request's time and how an iteration grows with its rows."""

    single_s: float
    new_tokens: int
    """Of the lone request."""
    growth: Callable[[int], float] = lambda rows: 1.0
    """An iteration's time at so many rows over that at one."""

    def seconds(self, planned: Planned) -> float:
        """Of the whole run."""
        workload, count = planned.workload, len(planned.workload.requests)
        last = max(request.at for request in workload.requests)
        alone = [self.single_s * request.new_tokens / self.new_tokens for request in workload.requests]
        rows = min(count, self._overlapping(workload, alone))
        fused = max(alone) * self.growth(rows)
        whole = max(last + fused, sum(alone) * self.growth(rows) / rows)  # the second where more comes than is served
        window = float(planned.settings.get("window_ms", 0.0)) / 1e3
        by_way: dict[str, float] = {
            "serial": max(sum(alone), last + alone[-1]),
            "instances": max(sum(alone), last + alone[-1]),
            "dynamic": max(last, window) + 2 * fused,
            "static": last + 2 * fused,
        }
        return by_way.get(planned.way, whole) + OVERHEAD_S

    def _overlapping(self, workload: Workload, alone: Sequence[float]) -> int:
        """About so many rows at once, as if each took its lone time."""
        ends = [request.at + seconds for request, seconds in zip(workload.requests, alone, strict=True)]
        return max(sum(other.at <= request.at < end for other, end in zip(workload.requests, ends, strict=True))
                   for request in workload.requests)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line asks for."""

    profile: Profile
    ways: tuple[str, ...] = WAYS
    layers: tuple[str, ...] = ("engine",)
    chat_rates: tuple[float, ...] = ()
    workloads: tuple[str, ...] = WORKLOADS
    """Of the profile's, by what their names begin with."""
    given: tuple[Workload, ...] = ()
    """In place of the profile's workloads (Flover's own file)."""


def plan(asked: Asked, scale: float, poisson_scale: float, vocab_size: int, max_model_len: int) -> list[Planned]:
    """Every run, the most telling first.

    Prompts of chat mixes are cut where a sequence would exceed `max_model_len`; longer random totals are left out.
    """
    made = functools.partial(_given, asked) if asked.given else functools.partial(
        _engine, asked, scale, poisson_scale, vocab_size
    )  # fmt: skip
    runs = [run for run in made() if run.way in asked.ways] if "engine" in asked.layers else []
    runs = [run for run in runs if _fits(run.workload, max_model_len)]
    runs += [run for layer in asked.layers if layer != "engine" for run in _through(layer, asked, scale, vocab_size)]
    if not asked.given:
        runs = [run for run in runs if run.workload.name.startswith(asked.workloads)]
    fitted = [Planned(run.layer, run.way, cut(run.workload, max_model_len), run.settings) for run in runs]
    return list({(run.layer, run.way, run.workload.name, repr(run.settings)): run for run in fitted}.values())


def _given(asked: Asked) -> Iterator[Planned]:
    for workload in asked.given:
        yield from (Planned("engine", way, workload) for way in asked.ways if way not in ("dynamic", "static"))
        yield from _batches(asked.profile, asked.ways, workload, float(workload.facts.get("scale", 1.0)))


def _engine(asked: Asked, scale: float, poisson_scale: float, vocab_size: int) -> Iterator[Planned]:
    """Of the bare engine."""
    sizes = asked.profile
    most = max(sizes.requests)
    at_once = {count: burst(count, sizes, vocab_size) for count in sizes.requests}
    spaced = {count: constant(count, sizes.constant_ms, scale, sizes, vocab_size) for count in sizes.requests}
    random = [poisson(most, mean, poisson_scale, sizes, vocab_size) for mean in sizes.poisson_ms]
    mixed = [random_totals(most, total, sizes.constant_ms, scale, sizes, vocab_size) for total in sizes.max_totals]
    yield Planned("engine", "fused", at_once[most])
    yield from (Planned("engine", "fused", workload) for workload in [*spaced.values(), *random])
    yield Planned("engine", "serial", at_once[most])
    yield from (Planned("engine", way, workload) for workload in mixed for way in ("fused", "none"))
    if random:
        yield Planned("engine", "instances", random[0])
    yield Planned("engine", "instances", spaced[most])
    for name in sizes.chat:
        yield from (Planned("engine", "fused", workload) for workload in chat_sweep(name, vocab_size, asked.chat_rates))
    yield from _batches(sizes, asked.ways, at_once[most], scale)
    yield from _batches(sizes, asked.ways, spaced[most], scale)
    yield from (Planned("engine", "instances", spaced[count]) for count in sorted(spaced))
    yield from (Planned("engine", "serial", workload) for _, workload in sorted(at_once.items()))
    yield from (Planned("engine", "fused", workload) for workload in at_once.values())
    yield from (Planned("engine", "instances", workload) for workload in [*reversed(random), at_once[most]])
    for workload in random:
        yield from _batches(sizes, asked.ways, workload, scale)


def _batches(sizes: Profile, ways: Iterable[str], workload: Workload, scale: float) -> Iterator[Planned]:
    """Batches run to completion, with each window (scaled as gaps are) and each size: the best is what counts.

    A burst is one batch without any wait: its best window is the shortest.
    """
    if "dynamic" in ways:
        comes_at_once = workload.requests[-1].at == 0.0
        for window in sizes.windows_ms[: 1 if comes_at_once else None]:
            yield Planned("engine", "dynamic", workload, {"window_ms": window * scale})
    if "static" in ways:
        for settings in [{"batch_size": size} for size in sizes.batch_sizes] or [{}]:
            yield Planned("engine", "static", workload, settings)


def _through(layer: str, asked: Asked, scale: float, vocab_size: int) -> Iterator[Planned]:
    """The same requests through a server, fused: what it costs."""
    sizes = asked.profile
    if asked.given:
        yield from (Planned(layer, "fused", workload) for workload in asked.given)
        return
    for count in sorted({1, *sizes.requests}):
        yield Planned(layer, "fused", burst(count, sizes, vocab_size))
    yield Planned(layer, "fused", constant(max(sizes.requests), sizes.constant_ms, scale, sizes, vocab_size))
    for name in sizes.chat_through:
        yield from (Planned(layer, "fused", workload) for workload in chat_sweep(name, vocab_size, asked.chat_rates))


def promising(runs: Sequence[Planned], step_s: Callable[[int], float], count: int) -> list[Planned]:
    """`runs` without those windows of dynamic batching that should not be among a workload's `count` best.

    `step_s`: of an iteration of so many rows. So the best of many windows costs a few runs.
    """
    expected: dict[str, list[tuple[float, int]]] = {}
    for place, run in enumerate(runs):
        if (run.layer, run.way) == ("engine", "dynamic"):
            size, window_s = run.settings.get("batch_size", DEFAULT_BATCH), run.settings["window_ms"] / 1e3
            end = expected_end(run.workload.requests, size, window_s, step_s)
            expected.setdefault(run.workload.name, []).append((end, place))
    left_out = {place for ends in expected.values() for _, place in sorted(ends)[count:]}
    return [run for place, run in enumerate(runs) if place not in left_out]


def _fits(workload: Workload, max_model_len: int) -> bool:
    """Of a chat mix, after its prompts are cut."""
    if workload.kind == "chat":
        return all(request.new_tokens < max_model_len for request in workload.requests)
    return all(len(request.prompt) + request.new_tokens <= max_model_len for request in workload.requests)


def cut(workload: Workload, max_model_len: int) -> Workload:
    """Prompts shortened until each sequence fits; `facts` say how many were."""
    too_long = [len(r.prompt) + r.new_tokens > max_model_len for r in workload.requests]
    if not any(too_long):
        return workload
    requests = tuple(replace(r, prompt=r.prompt[: max_model_len - r.new_tokens]) for r in workload.requests)
    return replace(workload, requests=requests, facts=workload.facts | {"prompts_cut": sum(too_long)})


def within(runs: Sequence[Planned], estimate: Estimate, budget_s: float | None) -> tuple[list[Planned], list[Planned]]:
    """(those that fit, those left out), in order; a later, shorter run may fit where an earlier one does not."""
    kept: list[Planned] = []
    left: list[Planned] = []
    spent = 0.0
    for run in runs:
        seconds = estimate.seconds(run)
        fits = budget_s is None or spent + seconds <= budget_s
        (kept if fits else left).append(run)
        spent += seconds if fits else 0.0
    return sorted(kept, key=_engine_kind), left


def _engine_kind(run: Planned) -> tuple[int, int, int]:
    """Runs on the same engine follow one another, since making one takes seconds; instances, one each, come last."""
    instances = run.way == "instances"
    return LAYERS.index(run.layer), 2 * instances + (run.way == "none"), len(run.workload.requests) if instances else 0
