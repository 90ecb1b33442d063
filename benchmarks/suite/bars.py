"""The bars of the papers' tables, on LLaMA-13B (8 + 504 tokens on the bare engine), held or missed. Pure."""

from __future__ import annotations

from benchmarks.suite import figures
from benchmarks.suite.result import Results, Run

MODEL = "13b"
SERIAL_BAR = 23.0
"""One after another over fused, burst of 32."""
INSTANCES_BAR = 16.7
"""Concurrent model instances over fused, 32 requests at the scaled 20 ms mean."""
PROMPT, TOTAL = 8, 512
"""Tokens of the papers' requests, of which the bars are: of the prompt, and in all."""
SLACK = 1.08
BOUNDS = {"burst-32": 1.26, "constant-500ms-32": 1.13}
"""Mean latency over a lone request's of an engine that makes every iteration in S, on an H200."""


def bars(results: Results) -> list[list[str]]:
    """[what, bar, figure, held or missed] of each; nothing where only others (model, layer, lengths) were measured."""
    runs = [run for run in results.runs if run.layer == "engine" and run.model == MODEL and _has_lengths(run)]
    if not runs:
        return []
    lines = [
        _speed_up(runs, "burst-32", "serial", SERIAL_BAR, "burst of 32, one after another over fused"),
        _speed_up(
            runs, "poisson-20ms-32", "instances", INSTANCES_BAR, "32 at the scaled 20 ms mean, instances over fused"
        ),
    ]
    for workload, bound in BOUNDS.items():
        run = _find(runs, workload, "fused")
        value = figures.mean_latency_over_single(run) if run else None
        lines.append(_bar(f"{workload}, mean latency over a lone request's", value, SLACK * bound, at_least=False))
    return lines


def _speed_up(runs: list[Run], workload: str, way: str, bar: float, what: str) -> list[str]:
    fused = _find(runs, workload, "fused")
    baseline = figures.twin(runs, fused, way) if fused else None
    value = figures.speed_up(fused, baseline) if fused and baseline else None
    return _bar(what, value, bar, at_least=True)


def _bar(what: str, value: float | None, bar: float, *, at_least: bool) -> list[str]:
    words = f"{'>=' if at_least else '<='} {bar:.{1 if at_least else 3}f}"
    if value is None:
        return [what, words, "–", "not measured"]
    held = value >= bar if at_least else value <= bar
    return [what, words, f"{value:.3f}", "held" if held else "MISSED"]


def _has_lengths(run: Run) -> bool:
    return (run.facts.get("prompt"), run.facts.get("max_total")) == (PROMPT, TOTAL)


def _find(runs: list[Run], workload: str, way: str) -> Run | None:
    return next((run for run in runs if (run.workload, run.way) == (workload, way)), None)
