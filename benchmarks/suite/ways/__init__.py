"""The same requests served in several ways by the bare engine, with one set of weights, the same kernels, graphs and
sampler: what remains is the way.

    with EngineWays("13b", "cuda", "random", print) as ways:
        fused, apart = ways.run("fused", workload), ways.run("instances", workload)
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.suite.batching import DEFAULT_BATCH, DEFAULT_WINDOW_MS
from benchmarks.suite.result import Run
from benchmarks.suite.ways.apart import serve_apart
from benchmarks.suite.ways.batches import serve_batches
from benchmarks.suite.ways.engines import MAX_INSTANCES, Engines, allow_many_streams
from benchmarks.suite.ways.probe import Probe, probe_device
from benchmarks.suite.ways.served import LIMIT_S, OnTokens, Served, arrival, make_run, token_times
from benchmarks.suite.workload import BenchRequest, Workload
from flover_backend.bench_engine.drive import Arrival, Record, drive
from flover_backend.bench_engine.figures import BenchError
from flover_backend.bench_engine.shapes import Shape
from flover_backend.engine.engine import Engine

__all__ = ["MAX_INSTANCES", "WAYS", "EngineWays", "Probe", "allow_many_streams"]

WAYS: dict[str, tuple[str, ...]] = {
    "fused": (),
    "none": (),
    "serial": (),
    "instances": ("instances",),
    "dynamic": ("batch_size", "window_ms"),
    "static": ("batch_size",),
}
"""Name -> the settings that it takes."""
WARM_STEPS, WARM_PROMPT = 32, 16
WARM_TOKENS, WARM_REQUESTS = 8, 32
"""Of a way's unmeasured run, each at most."""
LONE_RUNS, LONE_S = (3, 9), 1.5
"""Fewest and most runs of a lone request, and how long more than the fewest may take."""
_Serve = Callable[[Workload, OnTokens | None, Callable[[str], None]], tuple[Served, dict[str, Any]]]
"""Workload, who hears its tokens, who hears of progress -> what was served, further settings of the run."""


class EngineWays:
    """A model and its ways. Context manager; one thread. Raises `ConfigError` where the model does not load."""

    def __init__(
        self,
        shape_or_directory: Shape | Path | str,
        device: torch.device | str = "auto",
        load_format: str = "auto",
        tell: Callable[[str], None] = print,
        **keys: Any,
    ) -> None:
        """A shape or its name (bench_engine/shapes.py; random weights), a directory, or a bundled model's name.

        `keys`: of model.json, for the engine; by default its default settings.
        """
        self._tell = tell
        self._engines = Engines(shape_or_directory, device, load_format, tell, keys)
        self._warmed: list[str] = []
        """Ways that have served on the engines there are."""

    def __enter__(self) -> EngineWays:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the device's memory back."""
        self._engines.close()

    @property
    def name(self) -> str:
        """The model's, as runs name it."""
        return self._engines.name

    @property
    def vocab_size(self) -> int:
        """Token ids of prompts are below it."""
        return self._engines.model.vocab_size

    @property
    def max_model_len(self) -> int:
        """Most tokens of a request that the model allows, prompt included."""
        return self._engines.model.max_model_len

    @property
    def kv_bytes_per_token(self) -> int:
        """Keys and values of a token in all layers."""
        return self._engines.kv_bytes_per_token

    def single(self, workload: Workload) -> float:
        """Seconds of the workload's longest request alone on the engine, from adding it to its last token: median of
        three, of up to nine where it is quick."""
        engine = self._fused(workload)
        longest = max(workload.requests, key=lambda request: request.new_tokens)
        alone = [arrival(longest, at=0.0)]
        least, most = LONE_RUNS
        times: list[float] = []
        while len(times) < least or (len(times) < most and sum(times) < LONE_S):
            times.append(drive(engine, alone, limit_s=LIMIT_S).end)
        return statistics.median(times)

    def run(self, way: str, workload: Workload, *, on_tokens: OnTokens | None = None, **settings: Any) -> Run:
        """Serve the workload. Settings by way:

        instances: `instances` (default: one a request, at most `MAX_INSTANCES`; on a CPU one a core, since more only
        take turns). static, dynamic: `batch_size` (default 32). dynamic: `window_ms` (default 50). The run's settings
        name them, and of instances on a GPU `host_share` (apart.py). Another engine than the run before is made anew
        (fused, serial, static and dynamic share one), which takes seconds and is in no time of the run; nor is a short
        run before a way's first one on it. `on_tokens` hears every token that was asked for. Raises `BenchError` for a
        way or setting that is not allowed, or where a request fails.
        """
        if way not in WAYS:
            raise BenchError(f"way is {way!r}; allowed: {', '.join(WAYS)}")
        if not workload.requests:
            raise BenchError(f"workload {workload.name} has no requests; give it one at least")
        for name in settings:
            if name not in WAYS[way]:
                raise BenchError(f"{name} is no setting of {way}; allowed: {', '.join(WAYS[way]) or 'none'}")
        served, used = self._serve(way, workload, settings, on_tokens)
        run = make_run(way, self.name, workload, served, used)
        self._tell(f"{self.name}, {workload.name}, {way}{_in_words(used)}: {run.wall_s:.3f} s")
        return run

    def probe(self, rows: Sequence[int] | None = None) -> Probe:
        """What the device can do; the engines go for it, since it takes as much memory as the weights."""
        self._engines.unload()
        self._tell(f"{self.name}: copy bandwidth and weight products")
        return probe_device(self._engines.directory, self._engines.model.dtype, self._engines.device, rows)

    def _serve(
        self, way: str, workload: Workload, settings: dict[str, Any], on_tokens: OnTokens | None
    ) -> tuple[Served, dict[str, Any]]:
        serve = self._prepared(way, workload, settings)
        try:
            if way not in self._warmed:
                serve(_short(workload), None, lambda news: None)
                self._warmed.append(way)
            return serve(workload, on_tokens, lambda news: self._tell(f"{self.name}, {workload.name}, {way}: {news}"))
        except BaseException:
            self._engines.unload()  # the run may have left work in them
            raise

    def _prepared(self, way: str, workload: Workload, settings: dict[str, Any]) -> _Serve:
        """With the engines that the workload needs."""
        if way == "instances":
            count = int(settings.get("instances", min(len(workload.requests), self._engines.most_instances)))
            return _apart(way, self._instances(count, workload))
        engine = self._fused(workload, **({"reorder": "none"} if way == "none" else {}))
        if way == "serial":
            return _apart(way, [engine])
        if way in ("fused", "none"):
            return lambda work, on_tokens, tell: (_serve_fused(engine, work.requests, on_tokens), {})
        limits = self._engines.limits
        size = int(settings.get("batch_size", min(DEFAULT_BATCH, limits.max_rows)))
        if not 1 <= size <= limits.max_rows:
            raise BenchError(f"batch_size is {size}; allowed is 1 .. {limits.max_rows} (max_rows)")
        used: dict[str, Any] = {"batch_size": size}
        if way == "dynamic":
            used["window_ms"] = float(settings.get("window_ms", DEFAULT_WINDOW_MS))

        def serve(work: Workload, on_tokens: OnTokens | None, tell: object) -> tuple[Served, dict[str, Any]]:
            window_s = used["window_ms"] / 1e3 if way == "dynamic" and work is workload else None
            return serve_batches(engine, work.requests, size, window_s, limits.max_model_len, on_tokens), used

        return serve

    def _fused(self, workload: Workload, **keys: Any) -> Engine:
        engine, is_new = self._engines.fused(**keys)
        if is_new:
            self._warmed = []
            _warm(engine, workload.requests[: self._engines.limits.max_rows])
        return engine

    def _instances(self, count: int, workload: Workload) -> list[Engine]:
        longest = max(len(request.prompt) + request.new_tokens for request in workload.requests)
        engines, new = self._engines.instances(count, longest, max(len(r.prompt) for r in workload.requests))
        if new:
            self._warmed = []
        for engine in new:
            _warm(engine, workload.requests[:1])
        return engines


def _apart(way: str, engines: Sequence[Engine]) -> _Serve:
    def serve(work: Workload, on_tokens: OnTokens | None, tell: Callable[[str], None]) -> tuple[Served, dict[str, Any]]:
        served, host_share = serve_apart(engines, work.requests, on_tokens, tell)
        used: dict[str, Any] = {"instances": len(engines)} if way == "instances" else {}
        return served, used | ({} if host_share is None else {"host_share": host_share})

    return serve


def _short(workload: Workload) -> Workload:
    """A few tokens of its first requests, at once: a way's threads and operators are slower the first time."""
    few = workload.requests[:WARM_REQUESTS]
    requests = tuple(BenchRequest(0.0, r.prompt, min(r.new_tokens, WARM_TOKENS)) for r in few)
    return Workload(f"{workload.name}, warm-up", workload.kind, requests)


def _serve_fused(engine: Engine, requests: Sequence[BenchRequest], on_tokens: OnTokens | None) -> Served:
    """With each iteration's width, that of the plan whose tokens came: an earlier step's where the GPU runs behind."""
    planned, widths = [0] * engine.runner.pipeline_depth, list[int]()

    def stepped(record: Record) -> None:
        planned.append(0 if engine.last_stats is None else engine.last_stats.iteration.num_rows)
        if len(record.steps) > len(widths):
            widths.append(planned[-1 - engine.runner.pipeline_depth])

    arrivals = [arrival(request) for request in requests]
    record = drive(engine, arrivals, each_step=stepped, limit_s=LIMIT_S, on_tokens=on_tokens)
    return Served(token_times(record, len(requests)), [(at, len(got)) for at, got in record.steps], widths)


def _warm(engine: Engine, requests: Sequence[BenchRequest]) -> None:
    """A few iterations at every number of rows that the requests can make: a graph's first launch takes longer."""
    lengths = [2 + place * WARM_STEPS // len(requests) for place in range(len(requests))]
    drive(
        engine,
        [
            Arrival(0.0, list(r.prompt[:WARM_PROMPT]), min(n, r.new_tokens))
            for r, n in zip(requests, lengths, strict=True)
        ],
    )


def _in_words(settings: dict[str, Any]) -> str:
    return "".join(f", {name} {value:g}" for name, value in settings.items())
