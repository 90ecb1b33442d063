"""The suite's own generator and NVIDIA's perf_analyzer as clients of a target: a workload in, a `Run` out."""

from __future__ import annotations

import itertools
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pa.binary import PerfAnalyzer, lay_out_perf_analyzer
from benchmarks.pa.complete import until_complete
from benchmarks.pa.export import Experiment, Request, read_export
from benchmarks.pa.run import Target, command, run
from benchmarks.suite.load.calls import Mix, calls_of
from benchmarks.suite.load.generator import percentiles, run_of, send_calls
from benchmarks.suite.result import RequestResult, Run
from benchmarks.suite.workload import BenchRequest, Workload

PERF_ANALYZER = "PERF_ANALYZER"
"""Environment variable: a binary, whose libraries may lie beside it."""
LIMIT_S = 300.0
WARM_UP = 4
"""Requests before the first that counts: a server's first ones meet cold connections and kernels."""


def generate(
    target: Target, workload: Workload, layer: str, model: str, processes: int | None = None, mix: Mix | None = None
) -> Run:
    """With the suite's own generator."""
    calls = calls_of(workload, mix)
    answers = send_calls(target, calls, processes)
    settings: dict[str, Any] = {"processes": processes} if processes else {}
    if mix:
        shares = {"cancel_share": mix.cancel_share, "whole_share": mix.whole_share}
        settings |= {name: share for name, share in shares.items() if share}
    return run_of(workload, calls, answers, layer, model, settings)


def warm_up(workload: Workload, count: int = WARM_UP) -> Workload:
    """A few short requests like those of a workload, at once."""
    few = [BenchRequest(0.0, r.prompt, min(r.new_tokens, 16)) for r in workload.requests[:count]]
    return Workload("warm-up", "constant", tuple(few))


@dataclass(frozen=True)
class Analyzer:
    """perf_analyzer's binary, and how it is run."""

    binary: PerfAnalyzer
    tell: Callable[[str], None] = lambda line: None

    @classmethod
    def find(cls, path: Path | None, libraries: Path, tell: Callable[[str], None]) -> Analyzer:
        """`path`, else $PERF_ANALYZER, else the tritonclient wheel's, with its libraries linked into a folder."""
        named = path or os.environ.get(PERF_ANALYZER)
        if not named:
            return cls(lay_out_perf_analyzer(libraries), tell)
        binary = Path(named).absolute()
        return cls(PerfAnalyzer(binary, binary.parent), tell)

    def measure(self, target: Target, workload: Workload) -> Experiment:
        """Raises `MeasurementFailed`; an export that breaks off is measured again, six times in all."""
        with tempfile.TemporaryDirectory(prefix="flover-perf-") as folder:
            inputs, export, log = (Path(folder, name) for name in ("inputs.json", "profile.json", "log.txt"))
            inputs.write_text(json.dumps({"data": [_entry(request) for request in workload.requests]}))
            line = command(self.binary, target, inputs, export, _load(workload, Path(folder)))
            return until_complete(
                lambda: run(self.binary, line, log, LIMIT_S),
                lambda: next(one for one in read_export(export, len(workload.requests)) if one.requests),
                export,
                self.tell,
            )

    def run(self, target: Target, workload: Workload, model: str) -> Run:
        """The measured requests as the suite keeps them."""
        return _run_of(workload, self.measure(target, workload).requests, model)


def _entry(request: BenchRequest) -> dict[str, Any]:
    return {
        "input_ids": {"content": list(request.prompt), "shape": [len(request.prompt)]},
        "stream": [True],
        "max_tokens": [request.new_tokens],
        "temperature": [0.0],
        "ignore_eos": [True],
    }


def _load(workload: Workload, folder: Path) -> list[str]:
    """perf_analyzer's arguments: one burst, or the gaps between arrivals in microseconds."""
    count = len(workload.requests)
    times = [request.at for request in workload.requests]
    if times[0] == times[-1]:
        return ["--concurrency-range", str(count), "--request-count", str(count)]
    gaps = folder / "gaps.txt"
    # NOTE: the first gap is waited for before the first request.
    micros = [0, *(round((b - a) * 1e6) for a, b in itertools.pairwise(times))]
    gaps.write_text("".join(f"{gap}\n" for gap in micros))
    return ["--request-intervals", str(gaps), "--request-count", str(count)]


def _run_of(workload: Workload, requests: Sequence[Request], model: str) -> Run:
    start = min(request.sent for request in requests)
    gaps = np.concatenate([np.diff(request.times) for request in requests]) / 1e6
    arrivals = [request.at for request in workload.requests]
    return Run(
        way="fused",
        layer="perf_analyzer",
        model=model,
        workload=workload.name,
        kind=workload.kind,
        facts=workload.facts,
        requests=[_result(at, one, start) for at, one in zip(arrivals, requests, strict=False)],
        gaps_ms=percentiles(gaps),
        num_responses=sum(len(request.times) for request in requests),
    )


def _result(at: float, request: Request, start: int) -> RequestResult:
    answered = len(request.times) > 0
    gaps = percentiles(np.diff(request.times) / 1e6)
    return RequestResult(
        at=at,
        sent=(request.sent - start) / 1e9,
        first=((int(request.times[0]) if answered else request.ended) - start) / 1e9,
        end=(request.ended - start) / 1e9,
        prompt_tokens=request.prompt_tokens or 0,
        new_tokens=request.num_tokens,
        error="" if answered else "no response",
        gap_p99_ms=gaps.get("p99", 0.0),
    )
