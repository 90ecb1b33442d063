"""The requests that are measured, the shapes of the models, and the figures' arithmetic."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from tiny_shape import SIZES

from flover_backend.bench_engine import bars
from flover_backend.bench_engine.figures import Bar, Spread, failed, judge, percentile
from flover_backend.bench_engine.report import mark, table
from flover_backend.bench_engine.shapes import SHAPES
from flover_backend.bench_engine.workloads import (
    Sizes,
    arrival_workloads,
    burst,
    equal_prompts,
    mixed_prompts,
)
from flover_backend.models.load import read_model_config, weight_bytes


def test_arrivals_are_the_stated_ones() -> None:
    short, long, at_once = arrival_workloads(Sizes(), 32000)
    assert (round(short.last, 3), round(long.last, 3), at_once.last) == (0.513, 3.269, 0.0)
    assert [len(workload.arrivals) for workload in (short, long, at_once)] == [32, 32, 64]
    assert {arrival.new_tokens for arrival in short.arrivals + long.arrivals} == {504}
    assert all(1 <= arrival.new_tokens <= 504 for arrival in at_once.arrivals)
    assert len({arrival.new_tokens for arrival in at_once.arrivals}) > 40
    assert {len(a.prompt) for workload in (short, long, at_once) for a in workload.arrivals} == {8}
    assert [workload.name for workload in (short, long, at_once)] == list(bars.ARRIVALS) == list(bars.VLLM_ARRIVALS_S)


def test_prompts_of_mixed_and_of_equal_length_have_the_same_tokens() -> None:
    mixed, equal = mixed_prompts(Sizes(), 128256, 3), equal_prompts(Sizes(), 128256, 3)
    assert sum(len(a.prompt) for a in mixed) == sum(len(a.prompt) for a in equal) == 8192
    assert len(mixed) == len(equal) == 16 and {len(a.prompt) for a in equal} == {512}
    assert len({len(a.prompt) for a in mixed}) > 10 and min(len(a.prompt) for a in mixed) >= 1
    assert [len(a.prompt) for a in mixed] != [len(a.prompt) for a in mixed_prompts(Sizes(), 128256, 4)]


def test_a_burst_is_random_ids_of_the_vocabulary() -> None:
    arrivals = burst(SIZES, 4, 101)
    assert len({tuple(a.prompt) for a in arrivals}) == 4 and {a.new_tokens for a in arrivals} == {SIZES.new_tokens}
    assert all(3 <= token < 101 for a in arrivals for token in a.prompt)


@pytest.mark.parametrize(
    ("name", "weights_gb", "kv_bytes"),
    [("13b", 26.03, 819_200), ("8b", 16.06, 131_072), ("qwen2.5-7b", 15.23, 57_344), ("gptj-6b", 12.10, 458_752)],
)
def test_shapes_are_the_published_ones(tmp_path: Path, name: str, weights_gb: float, kv_bytes: int) -> None:
    shape = SHAPES[name]
    directory = shape.write(tmp_path)
    size = weight_bytes(directory, "auto", "cuda", "random")
    assert round(size / 1e9, 2) == weights_gb
    assert 2 * shape.kv_items_per_token == kv_bytes
    config = read_model_config(directory)
    products = list(shape.products())
    assert len(products) == 4 * config.num_hidden_layers + 1 and products[-1][0] == config.vocab_size
    embedding = 2 * config.vocab_size * config.hidden_size
    assert size - embedding == pytest.approx(2 * sum(rows * columns for rows, columns in products), rel=1e-3)


def test_spread_and_percentiles() -> None:
    samples = [float(n) for n in range(1, 101)]
    assert [percentile(samples, share) for share in (0.0, 0.01, 0.5, 0.99, 1.0)] == [1, 1, 50, 99, 100]
    spread = Spread.of(samples[::-1])
    assert (spread.median, spread.p05, spread.p95, spread.count) == (50.5, 5, 95, 100)
    assert Spread.of([2.0]).scaled(1e3) == {"median": 2000, "p05": 2000, "p95": 2000, "count": 1}


@pytest.mark.parametrize(
    ("value", "bar", "held"),
    [(1.08, Bar(1.08, "S"), True), (1.081, Bar(1.08, "S"), False), (0.6, Bar(0.6, "of dense", at_least=True), True),
     (0.59, Bar(0.6, at_least=True), False), (math.nan, Bar(1.0), False), (math.nan, Bar(1.0, at_least=True), False)],
)  # fmt: skip
def test_bars(value: float, bar: Bar, held: bool) -> None:
    assert judge("decode", "13b", "x", value, bar).held is held


def test_the_table_says_held_or_missed_and_counts() -> None:
    lines = [
        judge("decode", "13b", "a", 1.0, Bar(1.08, "S")),
        judge("decode", "13b", "b", 12.0, None, "ms"),
        failed("join", "8b", RuntimeError("first line\nsecond")),
    ]
    text = table(lines)
    assert [mark(line) for line in lines] == ["held", "", "MISSED"]
    assert text[2].split() == ["13b", "a", "<=", "1.080", "S", "1.000", "S", "held"] and "12.00 ms" in text[3]
    assert "join: not measured" in text[4] and "RuntimeError: first line" in text[4] and text[4].endswith("MISSED")
    assert text[-1] == "1 of 2 bars held"


def test_references_are_scaled_by_this_runs_products() -> None:
    assert bars.scale_to_now(32, {32: Spread.of([7.02e-3 * 1.1])}) == pytest.approx(1.1)
    assert bars.scale_to_now(32, {}) is None and bars.scale_to_now(3, {3: Spread.of([1.0])}) is None
