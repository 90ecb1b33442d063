"""What the tables show, of made-up runs."""

from __future__ import annotations

import pytest
from suite_results import made_results, made_run

from benchmarks.suite.result import Run
from benchmarks.suite.table import markdown


def told(*runs: Run) -> str:
    made = made_results(runs)
    made.machine["commit"] = "abc"
    return markdown(made)


def asked(way: str, name: str, kind: str, total: int = 512, count: int = 32, **facts: object) -> Run:
    """Requests of the paper, but for `facts`."""
    known: dict[str, object] = {"prompt": 8, "max_total": total, "paper_gap_ms": 500.0, "gap_ms": 195.0}
    known |= {"min_total": 128} if kind == "random-totals" else {}
    arrivals = [(0.195 * number, 8, total - 8) for number in range(count)]
    return made_run(way, arrivals, name, kind, model="13b", **(known | facts))


@pytest.mark.parametrize(
    ("kind", "facts", "stands"),
    [
        ("constant", {}, True),
        ("constant", {"total": 104}, False),
        ("constant", {"prompt": 100}, False),
        ("constant", {"per_batch_size": 2}, False),
        ("constant", {"paper_gap_ms": 1000.0}, False),
        ("random-totals", {}, True),
        ("random-totals", {"total": 256}, False),
        ("random-totals", {"min_total": 16}, False),
        ("random-totals", {"paper_gap_ms": 1000.0}, False),
    ],
)
def test_the_papers_column_stands_beside_its_own_lengths_alone(
    kind: str, facts: dict[str, object], stands: bool
) -> None:
    total = facts.get("total", 512)
    assert isinstance(total, int)
    text = told(asked("fused", "one", kind, total, **{name: value for name, value in facts.items() if name != "total"}))
    assert ("paper, LLaMA-13B" in text) is stands
    head, line, *rows = [line for line in text.splitlines() if line.startswith("| ")][:3]
    assert {head.count("|"), line.count("|")} == {row.count("|") for row in rows}


def test_the_chat_mix_says_how_many_prompts_were_cut() -> None:
    mix = made_run("fused", [(0.1 * number, 8, 4) for number in range(5)], "chat-mix-10", "chat", rate=10.0)
    assert "| 10/s (10.0/s) | 5 | fused |" in told(mix)
    mix.facts["prompts_cut"] = 2
    assert "| 10/s (10.0/s) | 5 (2 prompts cut) | fused |" in told(mix)


def test_instances_on_random_totals_have_their_row() -> None:
    name, kind = "random-totals-512-4", "random-totals"
    fused, apart = (asked(way, name, kind, count=4) for way in ("fused", "instances"))
    row = f"| {name} | instances | {apart.wall_s:.3f} s | {apart.wall_s / fused.wall_s:.2f} x |"
    assert row in told(fused, apart).splitlines()
    assert f"| {name} | instances | {apart.wall_s:.3f} s | – |" in told(apart).splitlines()
