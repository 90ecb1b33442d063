"""A run of the suite: what the device can do, a lone request, then each planned run; results are saved after each.

Knows the order of things, the file, and what to do when a run fails. Serves nothing itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.suite.figures import step_bound
from benchmarks.suite.flover_ini import FloverConfig
from benchmarks.suite.layers import Layer
from benchmarks.suite.plan import Asked, Estimate, Planned, plan, promising, within
from benchmarks.suite.progress import Told
from benchmarks.suite.result import Results, Run
from benchmarks.suite.through import through_servers
from benchmarks.suite.ways import EngineWays, allow_many_streams
from benchmarks.suite.workloads import burst, paper_of
from flover_backend.bench_engine.machine import describe_machine, in_words
from flover_backend.bench_engine.shapes import Shape
from flover_backend.engine.sizing import resolve_device
from flover_backend.errors import ConfigError

RESULTS = "results.json"
LONE, LONE_RUNS = "burst-1", 3
"""A lone request's time through a server is the median's."""
WINDOWS, WINDOWS_IN_A_HURRY = 6, 2
"""Of dynamic batching, measured on a workload: the most promising."""
BATCHING = 1.1
"""An iteration's growth over that of its weight products: attention and the sampler grow too."""


@dataclass(frozen=True, slots=True)
class Suite:
    """What is run, on which model. Raises `ConfigError` where the model, device or a layer cannot be had."""

    asked: Asked
    model: str
    device: str = "auto"
    load_format: str = "auto"
    scale: float | None = None
    """What the papers' gaps are multiplied by; None: a lone request's time here over the paper's."""
    flover: FloverConfig | None = None
    command: str = ""
    keys: dict[str, Any] = field(default_factory=dict)
    """Of model.json, for the engine."""


class Session:
    """Owns the results and their file."""

    def __init__(self, suite: Suite, folder: Path, tell: Told) -> None:
        self._suite, self._folder, self._tell = suite, folder, tell
        self._started = time.perf_counter()
        allow_many_streams()
        self.single_s: dict[str, float] = {}
        """A lone request's, by layer."""
        self._pace: dict[str, float] = {}
        """By way: what its last run took over its estimate, at least 1."""
        self._device = resolve_device(suite.device)
        machine = describe_machine(self._device)
        self.results = Results(
            command=suite.command, commit=machine["commit"] or "unknown", machine=machine, copy_bandwidth=0.0,
            products_ms={}, scale=suite.scale or 1.0, runs=[],
        )  # fmt: skip

    def run(self) -> Results:
        """Everything. An interruption leaves what there is in the file."""
        self._tell(in_words(self.results.machine))
        model: Shape | str = self._suite.flover.shape if self._suite.flover else self._suite.model
        with EngineWays(model, self._device, self._suite.load_format, self._tell, **self._suite.keys) as ways:
            runs, estimate = self._prepare(ways)
            self.engine([run for run in runs if run.layer == "engine"], estimate, ways)
        self._layers([run for run in runs if run.layer != "engine"], estimate)
        self._save()
        return self.results

    def engine(self, runs: list[Planned], estimate: Estimate, ways: EngineWays) -> None:
        """What fits by estimate, and of the rest what then still fits."""
        late: list[Planned] = []
        while runs:
            kept, runs = within(runs, estimate, self._left_s())
            if not kept:
                late += runs
                break
            seconds = sum(estimate.seconds(run) for run in kept)
            self._tell(f"{len(kept)} runs, about {seconds:.0f} s" + (f"; {len(runs)} more may fit" if runs else ""))
            self._tell.expect(seconds)
            for planned in kept:
                left_s = self._left_s()
                if left_s is not None and estimate.seconds(planned) * self._pace.get(planned.way, 1.0) > left_s:
                    late.append(planned)
                    continue
                started = time.perf_counter()
                self._one(planned, estimate, ways)
                self._pace[planned.way] = max(1.0, (time.perf_counter() - started) / estimate.seconds(planned))
        if late:
            self._tell(f"left out, for the time they take (--minutes): {'; '.join(run.title for run in late)}")

    def _left_s(self) -> float | None:
        """Of the budget."""
        budget_s = self._suite.asked.profile.budget_s
        return None if budget_s is None else max(0.0, budget_s - (time.perf_counter() - self._started))

    def _prepare(self, ways: EngineWays) -> tuple[list[Planned], Estimate]:
        """Probe, a lone request, and the plan, told."""
        sizes = self._suite.asked.profile
        probe = ways.probe()
        self.results.copy_bandwidth, self.results.products_ms = probe.copy_bandwidth, probe.products_ms
        self.results.kv_bytes_per_token = ways.kv_bytes_per_token
        products = ", ".join(f"{rows}: {ms:.3f}" for rows, ms in probe.products_ms.items())
        self._tell(f"copy bandwidth {probe.copy_bandwidth / 1e12:.3f} TB/s; weight products by rows, ms: {products}")
        if sizes.total > ways.max_model_len:
            raise ConfigError(
                f"requests of {sizes.total} tokens; {ways.name} allows {ways.max_model_len}: give --total"
            )
        lone = burst(1, sizes, ways.vocab_size)
        single_s = ways.single(lone)
        estimate = Estimate(single_s, lone.requests[0].new_tokens, _growth(probe.products_ms))
        self.single_s = {"engine": single_s}
        self.results.single_s = single_s
        _, paper = paper_of(ways.name)
        scale = self._suite.scale or single_s / paper.single_s
        self.results.scale = scale
        self._tell(
            f"a lone request of {sizes.prompt} + {estimate.new_tokens} tokens: {single_s:.3f} s, the paper's "
            f"({paper.title}) {paper.single_s} s: its gaps are multiplied by {scale:.4f}"
        )
        asked = self._suite.asked
        if self._suite.flover is not None:
            asked = replace(asked, given=(self._suite.flover.workload(scale, ways.vocab_size),))
        poisson_scale = self._suite.scale or single_s / paper.poisson_single_s
        runs = plan(asked, scale, poisson_scale, ways.vocab_size, ways.max_model_len)
        count = WINDOWS if asked.profile.budget_s is None else WINDOWS_IN_A_HURRY
        runs = promising(runs, _step_s(self.results, single_s / estimate.new_tokens, sizes.total / 2), count)
        if not runs:
            raise ConfigError("nothing is left to run; --ways or --layers leave no run of these workloads")
        return runs, estimate

    def _one(self, planned: Planned, estimate: Estimate, ways: EngineWays) -> None:
        with self._tell.step(planned.title, estimate.seconds(planned)):
            try:
                run = ways.run(planned.way, planned.workload, **planned.settings)
            except Exception as error:
                self._miss(planned, error)
                return
        run.single_s = self.single_s["engine"]
        self._add(run)

    def _layers(self, runs: Sequence[Planned], estimate: Estimate) -> None:
        """All of them: they were asked for by name. The engine's memory is free again."""
        if not runs:
            return
        seconds = sum(estimate.seconds(run) for run in runs)
        layers = ", ".join(dict.fromkeys(run.layer for run in runs))
        self._tell(f"{len(runs)} runs through {layers}, about {seconds:.0f} s beside the servers' starts")
        self._tell.expect(seconds)

        def measure(planned: Planned, layer: Layer) -> None:
            is_lone = planned.workload.name == LONE
            with self._tell.step(planned.title, estimate.seconds(planned)):
                try:
                    run = _median([layer.run(planned.workload) for _ in range(LONE_RUNS if is_lone else 1)])
                except Exception as error:
                    self._miss(planned, error)
                    return
            if is_lone:
                self.single_s[planned.layer] = run.wall_s
            run.single_s = self.single_s.get(planned.layer)
            self._tell(f"{planned.title}: {run.wall_s:.3f} s")
            self._add(run)

        model = self._suite.flover.shape if self._suite.flover else self._suite.model
        settings = {"device": self._device.type, **self._suite.keys}
        through_servers(runs, model, self._suite.load_format, self._tell, measure, self._miss, **settings)

    def _miss(self, planned: Planned, error: Exception) -> None:
        """Told and kept; the other runs go on."""
        words = f"{planned.title}: {type(error).__name__}: {error}".splitlines()[0]
        self.results.failed.append(words)
        self._save()
        self._tell(f"FAILED {words}")

    def stopped(self) -> None:
        """Who reads the results must know that they are not all; where there are none there is nothing to read."""
        if self.results.runs:
            self.results.failed.append("stopped by a signal: the runs that are not here were not made")
            self._save()

    def _add(self, run: Run) -> None:
        run.command, run.commit = self.results.command, self.results.commit
        self.results.runs.append(run)
        self._save()

    def _save(self) -> None:
        self.results.seconds = time.perf_counter() - self._started
        write_results(self.results, self._folder)


def _median(runs: Sequence[Run]) -> Run:
    """The one whose time is the median's, or just above it."""
    return sorted(runs, key=lambda run: run.wall_s)[len(runs) // 2]


def _growth(products_ms: dict[int, float]) -> Any:
    """Iteration time at so many rows over that at one, from the products', and beyond them in proportion."""
    rows, times = zip(*sorted(products_ms.items()), strict=True)

    def growth(count: int) -> float:
        last = times[-1] * max(1.0, count / rows[-1])
        ms = last if count > rows[-1] else float(np.interp(count, rows, times))
        return float(BATCHING * max(1.0, ms / times[0]))

    return growth


def _step_s(results: Results, lone_s: float, live_tokens: float) -> Callable[[int], float]:
    """An iteration's time at so many rows of `live_tokens` each: `lone_s`, that of one, grows as S does."""
    most = max(results.products_ms)
    lone = step_bound(results, 1, live_tokens)
    assert lone, "the probe measures one row"

    def step_s(rows: int) -> float:
        return lone_s / lone * (step_bound(results, min(rows, most), rows * live_tokens) or lone)

    return step_s


def write_results(results: Results, folder: Path) -> Path:
    """`results.json`, whole or as it was."""
    folder.mkdir(parents=True, exist_ok=True)
    path, part = folder / RESULTS, folder / (RESULTS + ".part")
    part.write_bytes(msgspec.json.format(msgspec.json.encode(results, enc_hook=str), indent=1))
    part.replace(path)
    return path


def read_results(place: Path) -> Results:
    """A results file, or that of a folder that the suite made. Raises `ConfigError` where there is none."""
    path = place if place.is_file() else place / RESULTS
    try:
        results = msgspec.json.decode(path.read_bytes(), type=Results)
        in_words(results.machine)
        return results
    except (OSError, msgspec.MsgspecError, KeyError) as error:
        told = f"{path} is no results file of the suite: {error}; `python -m benchmarks` makes a folder with one"
        raise ConfigError(told) from None
