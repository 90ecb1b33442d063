"""The suite's shared figures: hand-made runs whose answers are known by arithmetic."""

from __future__ import annotations

import pytest
from suite_results import COPY_BANDWIDTH, KV_BYTES_PER_TOKEN, constant, made_results, made_run, step_ms

from benchmarks.suite import figures
from benchmarks.suite.result import RequestResult, Run


def request(
    at: float, first: float, end: float, new_tokens: int = 10, gap: float = 0.0, error: str = ""
) -> RequestResult:
    return RequestResult(
        at=at, sent=at, first=first, end=end, prompt_tokens=8, new_tokens=new_tokens, error=error, gap_p99_ms=gap
    )


def run(*requests: RequestResult, way: str = "fused", layer: str = "engine", **fields: object) -> Run:
    known: dict[str, object] = {"model": "m", "workload": "w", "kind": "constant", "facts": {}}
    return Run(way=way, layer=layer, requests=list(requests), **{**known, **fields})  # type: ignore[arg-type]


TWO = run(request(0, 1, 4, 12), request(2, 3, 8, 12), single_s=2.0)


def test_times_of_two_requests() -> None:
    assert figures.latencies(TWO) == [4, 6]
    assert figures.first_tokens(TWO) == [1, 1]
    assert figures.mean_latency_over_single(TWO) == pytest.approx(2.5)
    assert figures.in_flight(TWO) == [(0, 1), (2, 2), (4, 1), (8, 0)]
    assert figures.mean_in_flight(TWO) == pytest.approx(10 / 8)
    assert figures.overlap(TWO) == pytest.approx(10 / 8 / 2)
    assert figures.tokens_per_s(TWO) == pytest.approx(24 / 8)
    assert figures.tokens_per_s_a_gpu(TWO, made_results(num_gpus=2)) == pytest.approx(1.5)
    assert figures.tokens_per_s_a_user(TWO) == pytest.approx((12 / 4 + 12 / 6) / 2)
    assert figures.rate(TWO) == pytest.approx(0.5)
    assert figures.rate(run(*TWO.requests, facts={"rate": 20})) == 0.5, "as drawn"


def test_a_late_generator_hides_nothing() -> None:
    late = RequestResult(at=0, sent=3, first=4, end=5, prompt_tokens=8, new_tokens=2)
    assert figures.latencies(run(late)) == [5]
    assert figures.first_tokens(run(late)) == [4]


def test_failed_requests_have_no_latency_and_miss_goodput() -> None:
    failing = run(request(0, 0.1, 1, gap=20), request(1, 1, 1, error="refused"), facts={"rate": 4}, single_s=1.0)
    assert figures.latencies(failing) == [1]
    assert figures.mean_latency_over_single(failing) == 1
    assert figures.goodput(failing, figures.Limits()) == figures.Goodput(0.5, 0.5)
    assert figures.mean_latency_over_single(run(request(0, 0, 0, error="refused"), single_s=1.0)) is None


def test_goodput_wants_both_limits_kept() -> None:
    four = run(
        request(0, 0.1, 1, gap=40),
        request(1, 1.3, 2, gap=40),
        request(2, 2.1, 3, gap=60),
        request(3, 3.19, 4, gap=50),
        facts={"rate": 10},
    )
    assert figures.goodput(four, figures.Limits()).share == 0.5
    assert figures.goodput(four, figures.Limits(first_token_s=0.5)).share == 0.75
    assert figures.goodput(four, figures.Limits(first_token_s=0.5, gap_ms=100)) == figures.Goodput(1.0, 1.0)


def test_a_baseline_gets_its_best_setting_of_the_same_layer() -> None:
    ours = run(request(0, 1, 2), layer="triton")
    slow, fast = (run(request(0, 1, end), way="dynamic", layer="triton-dynamic") for end in (8, 6))
    elsewhere = run(request(0, 1, 3), way="dynamic", layer="engine")
    other = run(request(0, 1, 3), way="dynamic", layer="triton", workload="v")
    baseline = figures.twin([slow, fast, elsewhere, other], ours, "dynamic")
    assert baseline is fast
    assert figures.speed_up(ours, fast) == 3
    assert figures.twin([slow, fast], ours, "serial") is None


def test_products_between_two_measured_ones() -> None:
    results = made_results(products_ms={1: 4.0, 3: 8.0})
    assert figures.products_s(results, 2) == pytest.approx(0.006)
    assert figures.products_s(results, 4) is None
    assert figures.step_bound(results, 1, 1000) == pytest.approx(0.004 + 1000 * KV_BYTES_PER_TOKEN / COPY_BANDWIDTH)
    assert figures.step_bound(made_results(products_ms={}), 1, 0) is None


def test_live_tokens_grow_from_the_first_until_the_last() -> None:
    one = run(request(0, 1, 3, new_tokens=11))
    assert figures.live_tokens(one, [0.5, 1, 2, 3, 3.5]) == [0, 9, 14, 19, 0]


def test_step_times_by_rows() -> None:
    pairs = [(0.01, 1), (0.02, 1), (0.03, 1), (0.06, 2), (0.08, 2), (5.0, 1), (5.01, 1)]
    found = figures.step_times(run(request(0, 0.01, 5.01), iterations=pairs), made_results())
    assert [(step.rows, step.count) for step in found] == [(1, 3), (2, 1)]
    assert [step.seconds for step in found] == pytest.approx([0.01, 0.02])
    every_second = figures.step_times(run(request(0, 0, 5), iterations=pairs, iteration_stride=2), made_results())
    assert [step.seconds for step in every_second] == pytest.approx([0.005, 0.01])


def test_a_step_in_which_a_prompt_may_have_taken_part_has_no_time() -> None:
    pairs = [(0.01, 1), (0.02, 1), (0.05, 1), (0.08, 2), (0.09, 2), (0.10, 2)]
    served = run(request(0, 0.01, 0.1), request(0.025, 0.08, 0.1), iterations=pairs)
    found = figures.step_times(served, made_results())
    assert [(step.rows, step.count) for step in found] == [(1, 1), (2, 2)]


def test_an_engine_at_five_percent_over_the_bound() -> None:
    """Its steps are 5 % over S, and its requests take longer than a lone one by as much as S is longer."""
    results, served = made_results(), made_run("fused", constant(32, 0.0), "burst", "constant")
    steps = figures.step_times(served, results)
    assert [step.rows for step in steps] == [32]
    assert steps[0].bound and steps[0].seconds / steps[0].bound == pytest.approx(1.05, rel=0.01)
    ratio = figures.bound_over_single(served, results)
    assert ratio == pytest.approx(step_ms(32) / step_ms(1), rel=0.01)
    assert figures.mean_latency_over_single(served) == pytest.approx(ratio, rel=0.01)


def test_the_bound_of_requests_that_come_apart() -> None:
    results, served = made_results(), made_run("fused", constant(32, 0.2), "apart", "constant")
    ratio, measured = figures.bound_over_single(served, results), figures.mean_latency_over_single(served)
    assert ratio and measured and 1.0 < ratio < step_ms(32) / step_ms(1)
    assert measured == pytest.approx(ratio, rel=0.02)
    assert figures.bound_over_single(served, made_results(products_ms={1: 6.6})) is None
