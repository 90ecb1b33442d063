"""Plots of results as an engine with known iteration times would give them: what is drawn, left out, and named."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from suite_results import chat, constant, made_results, made_run, poisson, random_totals

from benchmarks.suite.plots import draw, left_out
from benchmarks.suite.result import Results, Run

SCALE = 0.39


def evaluation() -> list[Run]:
    """Flover's evaluation in all ways, on the bare engine."""
    runs = []
    for count in (1, 8, 32):
        for gap in (0, 500):
            arrivals = constant(count, gap * SCALE / 1e3)
            runs += [
                made_run(way, arrivals, f"constant-{gap}ms-{count}", "constant", paper_gap_ms=gap, gap_ms=gap * SCALE)
                for way in ("serial", "instances", "dynamic", "none", "fused")
            ]
    for mean in (20, 200, 2000):
        runs += [
            made_run(way, poisson(32, mean * SCALE / 1e3), f"poisson-{mean}ms-32", "poisson", paper_gap_ms=mean)
            for way in ("serial", "instances", "dynamic", "fused")
        ]
    for most in (512, 1024, 1536, 2048):
        runs += [
            made_run(way, random_totals(32, 0.2, most), f"random-totals-{most}", "random-totals", max_total=most,
                     min_total=128)
            for way in ("none", "fused")
        ]  # fmt: skip
    return runs


def mixes() -> list[Run]:
    """A chat mix through several layers."""
    return [
        made_run(way, chat(60, rate), f"chat-mix-{rate}", "chat", layer=layer, rate=rate)
        for rate in (2, 5, 10, 20)
        for way, layer in (("serial", "engine"), ("dynamic", "engine"), ("fused", "engine"), ("fused", "triton"))
    ]


@pytest.fixture(scope="module")
def results() -> Results:
    return made_results([*evaluation(), *mixes()], scale=SCALE)


def size(path: Path) -> tuple[int, int]:
    """Of a PNG."""
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", head[16:24])
    return width, height


def test_every_plot_is_drawn(results: Results, tmp_path: Path) -> None:
    paths = draw(results, tmp_path / "new" / "folder")
    assert [path.stem for path in paths] == [
        "overall-time", "poisson", "reorder-gain", "rows", "step-time", "pareto", "goodput",
    ]  # fmt: skip
    assert left_out(results) == []
    for path in paths:
        width, height = size(path)
        assert 800 <= width <= 3000 and 500 <= height <= 2500, path
