"""Plots of results as an engine with known iteration times would give them: what is drawn, left out, and named."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import msgspec
import numpy as np
import pytest
from matplotlib.figure import Figure
from suite_results import chat, constant, made_results, made_run, poisson, random_totals

from benchmarks.suite.plots import draw, left_out
from benchmarks.suite.plots.select import Group, best
from benchmarks.suite.plots.steps import choose_rows, choose_steps, draw_rows, draw_steps
from benchmarks.suite.plots.times import choose_overall, draw_overall
from benchmarks.suite.plots.users import choose_pareto, draw_pareto
from benchmarks.suite.result import Results, Run

SCALE = 0.39


def evaluation() -> list[Run]:
    """Flover's evaluation in all ways, on the bare engine."""
    runs = []
    for count in (1, 16):
        for gap in (0, 500):
            arrivals = constant(count, gap * SCALE / 1e3)
            runs += [
                made_run(way, arrivals, f"constant-{gap}ms-{count}", "constant", paper_gap_ms=gap, gap_ms=gap * SCALE)
                for way in ("serial", "instances", "dynamic", "none", "fused")
            ]
    for mean in (20, 2000):
        runs += [
            made_run(way, poisson(32, mean * SCALE / 1e3), f"poisson-{mean}ms-32", "poisson", paper_gap_ms=mean)
            for way in ("serial", "instances", "dynamic", "fused")
        ]
    for most in (512, 1024):
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
        for rate in (5, 20)
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


def test_a_plot_without_runs_is_left_out_and_said(tmp_path: Path) -> None:
    few = made_results([made_run("serial", constant(2, 0.0, 20), "burst-2", "constant", layer="triton")])
    assert [path.stem for path in draw(few, tmp_path)] == ["overall-time-triton", "pareto"]
    missing = ["poisson", "reorder-gain", "rows", "step-time", "goodput"]
    assert [sentence.split(":")[0] for sentence in left_out(few)] == missing
    assert draw(made_results(), tmp_path / "none") == []
    assert len(left_out(made_results())) == 7


def test_the_time_of_a_run_with_failed_requests_is_not_shown(tmp_path: Path) -> None:
    failed = made_run("fused", constant(2, 0.0, 20), "burst-2", "constant", layer="triton")
    failed.requests[0] = msgspec.structs.replace(failed.requests[0], error="refused")
    assert draw(made_results([failed]), tmp_path) == []


def test_layers_and_models_have_files_of_their_own(tmp_path: Path) -> None:
    some = constant(2, 0.0, 20)
    runs = [
        made_run(way, some, "burst-2", "constant", layer=layer, model=model)
        for way, layer, model in (
            ("fused", "perf_analyzer", "/models/GPT-J 6B/"),
            ("fused", "triton", "13b"),
            ("instances", "triton-instances", "13b"),
        )
    ]
    assert [path.stem for path in draw(made_results(runs), tmp_path)] == [
        "overall-time-perf-analyzer-gpt-j-6b", "overall-time-triton-13b", "pareto-gpt-j-6b", "pareto-13b",
    ]  # fmt: skip


def test_of_several_settings_the_best_is_shown() -> None:
    slow, fast = (made_run("dynamic", constant(2, 0.0, count), "burst-2", "constant") for count in (40, 20))
    other = made_run("dynamic", constant(2, 0.0, 60), "burst-3", "constant")
    assert best([slow, fast, other]) == [fast, other]


def texts(figure: Figure) -> list[str]:
    """Everything written on its axes and in its legend."""
    marks = [text.get_text() for axes in figure.axes for text in axes.texts]
    return marks + [text.get_text() for box in figure.legends for text in box.get_texts()]


def test_what_was_not_run_is_told_and_no_line_goes_over_it() -> None:
    some = [("fused", (1, 4, 16)), ("serial", (1, 16)), ("dynamic", (16,))]
    runs = [
        made_run(way, constant(count, 0.0, 20), f"burst-{count}", "constant", num_requests=count)
        for way, counts in some
        for count in counts
    ]
    group = Group("m", "engine", tuple(runs))
    bars = draw_overall(made_results(runs), group, choose_overall(group))
    assert texts(bars).count("not run") == 3
    speed = next(line for axes in bars.axes for line in axes.lines if len(line.get_xdata()) == 3)
    assert [math.isnan(value) for value in speed.get_ydata()] == [False, True, False]
    pareto = draw_pareto(made_results(runs), group, choose_pareto(group))
    assert {"fused, bare engine: at once 1, 4, 16", "one after another, bare engine: at once 1, 16"} <= set(
        texts(pareto)
    )
    lines = {str(line.get_label()).split(",")[0]: line for line in pareto.axes[0].lines}
    assert [math.isnan(value) for value in lines["one after another"].get_ydata()] == [False, True, False]


def test_bursts_gaps_and_mixes_have_panels_of_their_own() -> None:
    runs = [run for run in [*evaluation(), *mixes()] if run.way == "fused"]
    group = Group("m", "", tuple(runs))
    titles = [axes.get_title() for axes in draw_pareto(made_results(runs), group, choose_pareto(group)).axes]
    assert titles == [
        "bursts, marked with their requests",
        "one every 500 ms of the paper, marked with their requests",
        "chat mix, marked with requests/s",
    ]


def test_no_bound_of_an_iteration_lies_below_its_weight_products(results: Results) -> None:
    group = Group("llama-13b", "engine", tuple(results.runs))
    upper = draw_steps(results, group, choose_steps(group)).axes[0]
    lines = {str(line.get_label()): line for line in upper.lines}
    bounds, products = lines["S of the fused iterations"], lines["weight products alone"]
    assert len(products.get_xdata()) == max(products.get_xdata()), "at every number of rows"
    below = np.interp(bounds.get_xdata(), products.get_xdata(), products.get_ydata())
    assert len(below) and (np.asarray(bounds.get_ydata()) >= below).all()


def test_without_reorder_the_rows_of_a_step_stand_beside_the_live_ones() -> None:
    runs = [made_run(way, random_totals(8, 0.2, 256), "random", "random-totals") for way in ("none", "fused")]
    group = Group("m", "engine", tuple(runs))
    assert runs[0].widths != runs[1].widths == [live for _, live in runs[1].iterations]
    saved = "computed for nothing, which reorder saves"
    assert saved in texts(draw_rows(made_results(runs), group, runs))
    runs[0].widths = []
    assert saved not in texts(draw_rows(made_results(runs), group, runs)), "older files do not know"


@pytest.mark.parametrize(("panels", "rows", "columns"), [(1, 1, 1), (4, 1, 4), (6, 2, 3), (8, 2, 4), (9, 3, 3)])
def test_panels_leave_few_places_empty(panels: int, rows: int, columns: int) -> None:
    runs = [made_run("fused", constant(2, 0.0, 5), f"w{place}", "constant") for place in range(panels)]
    axes = draw_rows(made_results(runs), Group("m", "engine", tuple(runs)), runs).axes
    grid = axes[0].get_subplotspec()
    assert grid is not None and grid.get_gridspec().get_geometry() == (rows, columns) and len(axes) == panels


def test_rows_show_few_workloads_of_a_kind() -> None:
    runs = [
        made_run("fused", constant(count, 0.0, 5), f"{gap}-{count}", "poisson", paper_gap_ms=gap)
        for gap in (20, 50, 100, 200, 500)
        for count in (2, 3)
    ]
    shown = choose_rows(Group("m", "engine", tuple(runs)))
    assert [run.workload for run in shown] == ["20-3", "50-3", "200-3", "500-3"]
