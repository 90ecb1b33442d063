"""A whole measurement: a server if none is given, one run after another, and what each leaves in its folder."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.pa.binary import PerfAnalyzer, lay_out_perf_analyzer
from benchmarks.pa.complete import until_complete
from benchmarks.pa.errors import MeasurementFailed
from benchmarks.pa.export import read_export
from benchmarks.pa.figures import figures
from benchmarks.pa.inputs import Entry, Lengths, Prompts, make_entries
from benchmarks.pa.modes import Load
from benchmarks.pa.picture import save_picture
from benchmarks.pa.probe import Probe
from benchmarks.pa.progress import show_progress
from benchmarks.pa.report import Result, sentences, table, write_reports
from benchmarks.pa.run import Target, command, run, without_secrets
from flover_backend.lifeline import adopt_orphans, end_children
from flover_backend.serve import LEFTOVERS_TIMEOUT_S
from flover_backend.server import ServerOptions, TritonServer
from flover_backend.stop_signals import StopSignals

EXPORT, LOG, INPUTS = "profile.json", "perf_analyzer.log", "inputs.json"
PROMPTS_BY_TIME = 64
"""Different requests when their number is not known; perf_analyzer starts again when they are used up."""


@dataclass(frozen=True)
class Requests:
    """What is asked, whatever the load."""

    prompts: Prompts
    outputs: Lengths
    temperature: float = 0.0
    seed: int = 1

    def entries(self, load: Load) -> list[Entry]:
        """One for each request of `load`, in the order of their use."""
        if self.outputs.low < load.min_output:
            raise MeasurementFailed(
                f"--output-tokens may be {self.outputs.low}, less than --request-period {load.min_output}: "
                "perf_analyzer ends its run when a request has fewer responses than that"
            )
        count = load.num_requests or PROMPTS_BY_TIME
        return make_entries(count, self.prompts, self.outputs, self.seed, self.temperature)


@dataclass(frozen=True)
class Plan:
    """What the command line says."""

    loads: Sequence[Load]
    requests: Requests
    folder: Path
    limit_s: float
    passed_on: Sequence[str] = ()
    """Arguments for perf_analyzer as they are."""
    binary: Path | None = None


def measure(plan: Plan, where: Target | ServerOptions, console: Console, facts: dict[str, Any]) -> list[Result]:
    """Run every load, show and write its figures. Raises `FloverError`, and `Stopped` after SIGINT or SIGTERM."""
    signals = StopSignals()
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="flover-perf-") as libraries:
        analyzer = PerfAnalyzer(plan.binary) if plan.binary else lay_out_perf_analyzer(Path(libraries))
        with _served(where, signals, console) as target, Probe(target) as probe:
            probe.check()
            for load in plan.loads:
                new = _run(plan, load, analyzer, target, probe, signals, console)
                for result in new:
                    show(result, console)
                results += new
                write_reports(plan.folder, results, facts)
    return results


def _run(
    plan: Plan,
    load: Load,
    analyzer: PerfAnalyzer,
    target: Target,
    probe: Probe,
    signals: StopSignals,
    console: Console,
) -> list[Result]:
    entries = plan.requests.entries(load)
    folder = plan.folder / load.label
    folder.mkdir(parents=True)
    (folder / INPUTS).write_text(json.dumps({"data": entries}))
    export = folder / EXPORT
    line = command(analyzer, target, folder / INPUTS, export, [*load.arguments, *plan.passed_on])
    (folder / "command.txt").write_text(without_secrets(line) + "\n")
    probe.send(max(entries, key=_size), plan.limit_s)

    def measure() -> None:
        with show_progress(console, load, probe) as tell:

            def on_tick(seconds: float) -> None:
                signals.check()
                tell(seconds)

            run(analyzer, line, folder / LOG, plan.limit_s, on_tick)

    return until_complete(
        measure,
        lambda: read_results(export, load.label, load.words, folder, _num_requests(plan, load)),
        export,
        partial(console.print, markup=False, highlight=False, soft_wrap=True),
    )


def _num_requests(plan: Plan, load: Load) -> int | None:
    """That perf_analyzer sends; None where a flag that is passed on says it, or a time."""
    return None if any(flag.startswith("--request-count") for flag in plan.passed_on) else load.num_requests


def read_results(export: Path, label: str, words: str, folder: Path, num_requests: int | None = None) -> list[Result]:
    """Of an export file, with a picture of each experiment in `folder`. Raises `MeasurementFailed` as it does."""
    experiments = [one for one in read_export(export, num_requests) if one.requests]
    results = []
    for number, one in enumerate(experiments, start=1):
        several = len(experiments) > 1
        name = f"{label}-{number}" if several else label
        what = f"{words} ({one.mode} {one.value:g})" if several else words
        results.append(Result(name, what, figures(one.requests), one.requests))
        save_picture(folder / (f"picture-{number}.png" if several else "picture.png"), results[-1])
    return results


def show(result: Result, console: Console) -> None:
    """Table and totals."""
    console.print()
    console.print(table(result))
    for line in sentences(result.figures):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _size(entry: Entry) -> int:
    prompt = entry["input_ids"]["shape"][0] if "input_ids" in entry else len(entry["text_input"][0])
    return int(prompt) + int(entry["max_tokens"][0])


@contextmanager
def _served(where: Target | ServerOptions, signals: StopSignals, console: Console) -> Iterator[Target]:
    """A server of our own ends with this."""
    if isinstance(where, Target):
        yield where
        return
    adopt_orphans()
    server = TritonServer(where)
    try:
        with _told(console, f"starting a Triton server with {where.config.model} ..."):
            server.start()
            server.wait_ready(signals.check)
        yield Target(server.grpc_url, where.name)
    finally:
        server.stop()
        end_children(LEFTOVERS_TIMEOUT_S)


@contextmanager
def _told(console: Console, what: str) -> Iterator[None]:
    console.print(what, markup=False, highlight=False, soft_wrap=True)
    with console.status(what):
        yield
