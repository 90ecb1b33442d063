"""The timeline: read from a recorded trace (a made one, and one of a tiny engine), summed up, drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib import image
from tiny_shape import TINY
from typer.testing import CliRunner

from flover_backend import cli
from flover_backend.bench_engine.picture import draw
from flover_backend.bench_engine.recording import record_iterations
from flover_backend.bench_engine.timeline import OTHER, Span, Timeline, busy, from_events, kind_of, read_trace
from flover_backend.config import ModelJson
from flover_backend.engine.load import load_engine
from flover_backend.engine.ranges import phase


def _event(cat: str, name: str, start: float, duration: float) -> dict[str, Any]:
    return {"ph": "X", "cat": cat, "name": name, "ts": start, "dur": duration}


def _made_trace() -> list[dict[str, Any]]:
    """Two iterations of 1,000 us, as torch.profiler writes them; kernels overlap, and the GPU idles now and then."""
    events: list[dict[str, Any]] = [{"ph": "M", "name": "process_name"}, _event("cpu_op", "aten::mm", 0, 5)]
    for start in (5000.0, 6000.0):
        events += [_event("user_annotation", "plan", start, 40), _event("user_annotation", "run", start + 40, 200)]
        events += [_event("user_annotation", "commit", start + 240, 60), _event("user_annotation", "other", start, 9)]
        for layer in range(4):
            at = start + 240 * layer
            events += [
                _event("kernel", "nvjet_hsh_128x64", at, 150),
                _event("kernel", "decode_kernel_attention", at + 140, 60),
            ]
            events += [_event("kernel", "add_rms_norm_kernel", at + 200, 40)]
        events += [
            _event("kernel", "_sample_kernel", start + 960, 10),
            _event("gpu_memcpy", "Memcpy DtoH", start + 970, 5),
        ]
    return events


def test_a_trace_becomes_lanes_from_zero() -> None:
    timeline = from_events(_made_trace())
    assert [span.lane for span in timeline.host] == ["plan", "run", "commit"] * 2
    assert timeline.host[0].start == timeline.device[0].start == 0.0
    assert timeline.seconds_by_kind() == pytest.approx(
        {"products": 1.2e-3, "attention": 0.48e-3, "norms": 0.32e-3, "sampling": 0.02e-3, "copies": 0.01e-3}
    )
    assert timeline.idle_share == pytest.approx(25 / 1975)
    later = timeline.after(1000.0)
    assert len(later.host) == 3 and len(later.device) == len(timeline.device) / 2


def test_busy_counts_overlaps_once() -> None:
    spans = [Span("a", "", s, e) for s, e in ((5.0, 6.0), (0.0, 2.0), (1.0, 3.0), (1.2, 1.4), (6.0, 7.0))]
    assert busy(spans) == pytest.approx(5.0)
    assert Timeline([], []).idle_share == 1.0


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nvjet_hsh_64x16_64x16_4x1_v_bz_TNT", "products"), ("sm90_xmma_gemm_f16f16", "products"),
        ("_skinny_kernel", "products"), ("decode_kernel", "attention"), ("_prefill_kernel", "attention"),
        ("plan_kernel", "attention"), ("_norm_kernel", "norms"), ("_rotate_and_write_kernel", "rotary, KV write"),
        ("_parallel_norm_kernel", "norms"), ("_bias_gelu_kernel", "activation"),
        ("_silu_mul_kernel", "activation"), ("_argmax_kernel", "sampling"), ("_choose_kernel", "sampling"),
        ("statistics_kernel", "sampling"), ("_prepare", "row state"),
        ("_advance_kernel", "row state"), ("_move_kernel", "row state"), ("_apply_kernel", "row state"),
        ("_embed_kernel", "row state"), ("_copy_kernel", "copies"), ("Memset (Device)", "copies"),
        ("vectorized_elementwise_kernel", OTHER),
    ],
)  # fmt: skip
def test_kernels_have_their_kinds(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_the_picture_shows_every_lane(tmp_path: Path) -> None:
    (tmp_path / "trace.json").write_text(json.dumps({"traceEvents": _made_trace()}))
    timeline = read_trace(tmp_path / "trace.json")
    draw(timeline, "two iterations", tmp_path / "deep" / "with.png")
    draw(Timeline(timeline.host, []), "no GPU", tmp_path / "without.png")
    draw(Timeline([], []), "nothing", tmp_path / "nothing.png")
    pixels, fewer = image.imread(tmp_path / "deep" / "with.png"), image.imread(tmp_path / "without.png")
    assert pixels.shape[1] == fewer.shape[1] == 1950 and pixels.shape[0] > fewer.shape[0] + 300
    colours = {tuple((pixel[:3] * 255).round().astype(int)) for pixel in pixels[::3, ::3].reshape(-1, pixels.shape[2])}
    for name, colour in {
        "products": (0x4E, 0x79, 0xA7),
        "attention": (0xE1, 0x57, 0x59),
        "run": (0x3E, 0x4C, 0x59),
    }.items():
        assert colour in colours, name


def test_an_engines_iterations_are_recorded(tmp_path: Path) -> None:
    directory = TINY.write(tmp_path)
    engine, _ = load_engine(ModelJson(device="cpu", load_format="random"), directory, lambda stage, fraction: None)
    timeline = record_iterations(engine, 3, 8, 5, tmp_path / "chrome.json")
    lanes = [span.lane for span in timeline.host]
    assert lanes == ["plan", "run", "commit"] * 5
    assert all(a.end <= b.start for a, b in zip(timeline.host, timeline.host[1:], strict=False))
    assert (tmp_path / "chrome.json").exists() and not phase.enabled


def test_the_command_records_and_draws(tmp_path: Path) -> None:
    directory = TINY.write(tmp_path / "model")
    model = str(directory)
    assert "holds no weights" in str(CliRunner().invoke(cli.app, ["bench", "trace", "--model", model]).exception)
    from flover_backend.bundled import path_of

    flags = ["--model", str(path_of("llama-demo")), "--iterations", "3", "--rows", "2", "--device", "cpu"]
    answer = CliRunner().invoke(cli.app, ["bench", "trace", *flags, "--picture", str(tmp_path / "t.png")])
    assert answer.exit_code == 0, answer.output
    assert f"picture: {tmp_path / 't.png'}" in answer.output and (tmp_path / "t.png").stat().st_size > 10_000
