"""The order of runs, their estimates, and what is left out of a budget."""

from __future__ import annotations

import pytest

from benchmarks.suite.plan import Asked, Estimate, Planned, cut, plan, within
from benchmarks.suite.workloads import burst, chat_sweep, constant, profile

PAPER = profile("paper")
DEFAULT_WAYS = ("fused", "none", "serial", "instances", "dynamic")
START_S = 50
"""Loading, probing, and making engines."""
H200_13B = Estimate(3.55, 504, lambda rows: 1.1 * (1 + 0.25 * rows / 32))
"""A lone request of LLaMA-13B on an H200, and about how its iterations grow."""


def seconds(way: str, count: int = 32, **settings: float) -> float:
    return H200_13B.seconds(Planned("engine", way, burst(count, PAPER, 32000), dict(settings)))


def test_estimates_are_the_arithmetic_of_a_lone_request() -> None:
    assert seconds("serial") == pytest.approx(32 * 3.55, rel=0.01)
    assert seconds("instances", 8) == pytest.approx(8 * 3.55, rel=0.02)
    assert 3.55 < seconds("fused") < 6
    assert seconds("dynamic", window_ms=6000) > 6 + 3.55
    spaced = Planned("engine", "fused", constant(32, 5000, 0.39, PAPER, 32000))
    assert H200_13B.seconds(spaced) == pytest.approx(31 * 1.95 + 1.1 * 3.55, rel=0.05)


def test_the_default_run_on_an_h200_fits_ten_minutes_and_has_what_the_bars_need() -> None:
    scale = 3.55 / 9.1
    runs = plan(Asked(PAPER, DEFAULT_WAYS), scale, scale, 32000, 2048)
    kept, left = within(runs, H200_13B, PAPER.budget_s - START_S)
    assert sum(H200_13B.seconds(run) for run in kept) <= 600 - START_S and left
    names = {(run.workload.name, run.way) for run in kept}
    assert names >= {
        ("burst-32", "fused"),
        ("burst-32", "serial"),
        ("burst-32", "dynamic"),
        ("poisson-20ms-32", "fused"),
        ("poisson-20ms-32", "instances"),
        ("poisson-200ms-32", "fused"),
        ("poisson-2000ms-32", "fused"),
        ("constant-500ms-1", "fused"),
        ("constant-500ms-8", "fused"),
        ("constant-500ms-32", "fused"),
        ("constant-500ms-32", "instances"),
        ("random-totals-512-32", "fused"),
        ("random-totals-512-32", "none"),
        ("random-totals-1024-32", "none"),
        ("chat-mix-10", "fused"),
    }
    kinds = ["instances" if run.way == "instances" else "none" if run.way == "none" else "fused" for run in kept]
    assert kinds == sorted(kinds, key=["fused", "none", "instances"].index), "an engine is made once for all its runs"


def test_workloads_are_chosen_by_what_their_names_begin_with() -> None:
    chosen = plan(Asked(PAPER, ("fused", "instances"), workloads=("poisson", "burst")), 0.39, 0.39, 32000, 2048)
    assert {run.workload.name for run in chosen} == {
        "poisson-20ms-32", "poisson-200ms-32", "poisson-2000ms-32", "burst-1", "burst-8", "burst-32"
    }  # fmt: skip
    through = plan(Asked(PAPER, layers=("triton",), workloads=("chat",)), 0.39, 0.39, 32000, 2048)
    assert {run.workload.kind for run in through} == {"chat"}


def test_the_full_sweep_has_every_column_and_no_budget() -> None:
    full = profile("full")
    runs = plan(Asked(full), 0.39, 0.39, 32000, 2048)
    kept, left = within(runs, H200_13B, full.budget_s)
    assert not left and len(kept) == len(runs)
    names = {(run.workload.name, run.way) for run in kept}
    assert {(f"constant-500ms-{n}", way) for n in (1, 2, 4, 8, 16, 32) for way in ("fused", "instances")} <= names
    assert {(f"poisson-{mean:g}ms-32", "instances") for mean in full.poisson_ms} <= names
    assert {(f"random-totals-{most}-32", way) for most in (512, 1024, 1536, 2048) for way in ("fused", "none")} <= names


def test_layers_get_the_same_requests_and_only_the_asked_ways_run() -> None:
    asked = Asked(PAPER, ("serial",), ("engine", "triton"))
    runs = plan(asked, 0.39, 0.39, 32000, 2048)
    assert {(run.layer, run.way) for run in runs} == {("engine", "serial"), ("triton", "fused")}
    assert "chat-triton-20" in {run.workload.name for run in runs}
    assert {run.way for run in plan(Asked(PAPER, given=(burst(2, PAPER, 9),)), 1, 1, 9, 2048)} == {
        "fused", "none", "serial", "instances", "dynamic", "static"
    }  # fmt: skip


def test_sequences_that_do_not_fit_the_model_are_cut_or_left_out() -> None:
    (mix,) = chat_sweep("mix", 32000)
    shorter = cut(mix, 2048)
    assert max(len(r.prompt) + r.new_tokens for r in shorter.requests) <= 2048
    assert shorter.facts["prompts_cut"] > 0 and [r.new_tokens for r in shorter.requests] == [
        r.new_tokens for r in mix.requests
    ]
    runs = plan(Asked(PAPER), 1.0, 1.0, 32000, 600)
    assert not any(run.workload.name == "random-totals-1024-32" for run in runs)


def test_shortened_profiles_keep_their_proportions() -> None:
    short = profile("full").shortened(64)
    assert (short.total, short.min_total, short.max_totals) == (64, 16, (64, 128, 192, 256))
