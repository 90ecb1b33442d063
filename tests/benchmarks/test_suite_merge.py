"""Results of several commands as one: which runs stay, and what is told of them. Made-up runs of known times."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from suite_results import made_results, made_run

from benchmarks.suite import figures
from benchmarks.suite.merge import merge
from benchmarks.suite.result import Results, Run
from benchmarks.suite.session import read_results
from benchmarks.suite.table import markdown
from flover_backend.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


def burst(way: str, total: int, count: int = 4) -> Run:
    return made_run(way, [(0.0, 8, total - 8)] * count, f"burst-{count}", "constant", prompt=8, max_total=total)


def part(name: str, *runs: Run, seconds: float = 10.0, **machine: object) -> Results:
    made = made_results(runs, command=name, commit=name, seconds=seconds)
    made.machine = made.machine | {"commit": name} | machine
    return made


def test_no_ratio_of_requests_of_other_lengths() -> None:
    merged = merge([part("long", burst("serial", 256)), part("short", burst("fused", 64))])
    assert [(run.way, run.command) for run in merged.runs] == [("fused", "short")]
    assert figures.twin(merged.runs, merged.runs[0], "serial") is None
    both = merge([part("serial", burst("serial", 64)), part("fused", burst("fused", 64))])
    assert {run.way for run in both.runs} == {"serial", "fused"}, "the same requests"


def test_a_failed_request_is_the_same_request() -> None:
    failing, fused = burst("serial", 64), burst("fused", 64)
    failing.requests[1] = msgspec.structs.replace(failing.requests[1], new_tokens=3, error="refused")
    assert len(merge([part("a", failing), part("b", fused)]).runs) == 2
    fused.facts["max_total"] = 256
    assert len(merge([part("a", failing), part("b", fused)]).runs) == 1, "it asked for another length"


@pytest.mark.parametrize(
    ("fact", "says"),
    [
        ({"gpu": "Other GPU"}, "1 x Made-up GPU .* and llama-13b on 1 x Other GPU"),
        ({"cpus": 2}, r"\(16 CPU cores, .* and .* \(2 CPU cores"),
        ({"torch": "2.12"}, "torch 2.11, .* and .* torch 2.12,"),
    ],
)
def test_other_machines_are_refused_by_name(fact: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=f"--merge of llama-13b on .*{says}.*allowed: one model on one kind of mach"):
        merge([part("a", burst("serial", 64)), part("b", burst("fused", 64), **fact)])


def test_commands_and_seconds_are_of_the_runs_that_remain() -> None:
    old, other, new = (
        part("old", burst("fused", 64)),
        part("other", burst("serial", 64)),
        part("new", burst("fused", 64)),
    )
    merged = merge([old, other, new])
    assert (merged.command, merged.commit, merged.seconds) == ("other; new", "other, new", 20.0)
    assert " 20 s in all." in markdown(merged)
    assert merge([merged, part("last", burst("none", 64), seconds=5.0)]).seconds == 25.0
    again = merge([merged, part("again", burst("serial", 64))])
    assert (again.command, again.seconds) == ("new; again", 0.0), "how long `new` took alone is not in the file"
    assert "in all" not in markdown(again)


def test_the_kept_results_of_13b_can_be_merged_again() -> None:
    kept = read_results(ROOT / "benchmarks" / "results" / "13b")
    commands = dict.fromkeys(run.command for run in kept.runs)
    parts = [
        msgspec.structs.replace(kept, command=name, runs=[run for run in kept.runs if run.command == name])
        for name in commands
    ]
    assert len(parts) >= 4 and merge(parts).runs == [run for one in parts for run in one.runs]
    assert merge(parts).command == "; ".join(commands)
