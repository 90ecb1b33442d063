"""`flover bench engine` on a tiny model on the CPU: every part that can run there runs, and the rest says why not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_shape import SIZES, TINY, TINY_GPTJ
from typer.testing import CliRunner

from flover_backend import cli
from flover_backend.bench_engine import run as running
from flover_backend.bench_engine.checkpoint import write_checkpoint
from flover_backend.bench_engine.defaults import defaults
from flover_backend.bench_engine.figures import Line, Spread
from flover_backend.bench_engine.loading import load
from flover_backend.bench_engine.run import DRIVING, EngineBenchOptions, bench_engine
from flover_backend.bench_engine.session import Probed, Session
from flover_backend.bench_engine.shapes import Shape
from flover_backend.errors import ConfigError
from flover_backend.models.load import load_model

CPU = torch.device("cpu")


def options(tmp_path: Path, *only: str, **keys: object) -> EngineBenchOptions:
    given = {"models": ("tiny",), "only": only, "json": tmp_path / "out" / "bench.json", "device": "cpu"}
    return EngineBenchOptions(**(given | {"sizes": SIZES, "shapes": {"tiny": TINY}} | keys))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shape", "kv_items"),
    [(TINY, 2 * 2 * 2 * 8), pytest.param(TINY_GPTJ, 2 * 2 * 2 * 16, marks=pytest.mark.slow)],
    ids=["llama", "gptj"],
)
def test_every_part_that_drives_an_engine(tmp_path: Path, shape: Shape, kv_items: int) -> None:
    told: list[str] = []
    asked = ("first-token", "decode", "arrivals", "prefill", "join", "moves", "idle", "attention", "reorder")
    lines = bench_engine(options(tmp_path, *asked, shapes={"tiny": shape}), told.append)
    measured = {part: [line for line in lines if line.part == part] for part in asked}
    assert {part: len(of) for part, of in measured.items()} == dict(
        zip(asked, (1, 2, 3, 2, 2, 1, 1, 1, 1), strict=True)
    )
    for line in lines:
        if line.part in ("idle", "attention", "reorder"):
            assert line.held is False and "needs an NVIDIA GPU" in line.figure
        else:
            assert line.held is None and line.details["value"] > 0
    decode = measured["decode"][1].details
    assert decode["rows"] == 4 and decode["gaps_ms"]["count"] == SIZES.new_tokens - 1
    kv_bytes = 4 * (8 + SIZES.new_tokens / 2) * kv_items * 4
    saved = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert decode["kv_ms"] == pytest.approx(1e3 * kv_bytes / saved["probes"]["copy_bandwidth"]["median"])
    assert decode["bound_ms"] == pytest.approx(decode["products_ms"] + decode["kv_ms"])
    assert len(saved["lines"]) == len(lines) and saved["machine"]["torch"] == torch.__version__
    assert set(saved["probes"]["tiny"]["products_ms"]) == {"1", "4", "32"}
    assert told[-1] == f"saved: {tmp_path / 'out' / 'bench.json'}" and told[-2] == "0 of 3 bars held"


def test_a_part_that_fails_is_missed_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(session: Session) -> Iterator[Line]:
        yield from ()
        raise RuntimeError("no such thing")

    monkeypatch.setitem(DRIVING, "decode", broken)
    lines = bench_engine(options(tmp_path, "decode", "first-token"), lambda text: None)
    assert [(line.part, line.held) for line in lines] == [("first-token", None), ("decode", False)]
    assert lines[1].figure == "RuntimeError: no such thing"


def test_defaults_against_a_sweep(tmp_path: Path) -> None:
    told: list[str] = []
    session = Session(TINY, TINY.write(tmp_path), CPU, SIZES, told.append, Probed(Spread.of([1.0]), {}, {}))
    settings = {"defaults": {}, "block_size 32": {"block_size": 32}, "impossible": {"kv_cache_tokens": 1}}
    lines = list(defaults(session, settings))
    assert [line.what.split(":")[0] for line in lines] == [
        "first token of 4", "poisson 20 ms", "poisson 100 ms", "64 at once",
    ]  # fmt: skip
    assert all(
        0 < line.details["value"] <= 1 and set(line.details["seconds"]) == {*settings} - {"impossible"}
        for line in lines
    )
    assert any("impossible: ConfigError" in text for text in told)


@pytest.mark.parametrize("shape", [TINY, pytest.param(TINY_GPTJ, marks=pytest.mark.slow)], ids=["llama", "gptj"])
def test_load_in_a_process_of_its_own_reads_a_written_checkpoint(tmp_path: Path, shape: Shape) -> None:
    size = write_checkpoint(shape.write(tmp_path), torch.float32, CPU, shard_bytes=20_000)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    model = load_model(tmp_path, "auto", "cpu", lambda stage, fraction: None)
    assert model.num_parameters * 4 == size
    told: list[str] = []
    cold, warm = load(shape, tmp_path, CPU, "auto", told.append)
    for line in (cold, warm):
        assert "read from safetensors" in line.what and 0 < line.details["value"] < 30
        assert "weights" in line.details["stages_s"] and line.details["process_s"] > line.details["imports_s"] > 0
    assert "cold" in cold.what and "warm" in warm.what and len(told) == 2


def test_a_load_that_fails_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    lines = bench_engine(
        options(tmp_path, "load", shapes={"tiny": TINY.__class__("tiny", "T", {"a": 1})}), lambda t: None
    )
    assert [(line.part, line.held) for line in lines] == [("load", False)]
    assert "the engine's process ended with status 1" in lines[0].figure


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"models": ("9b",)}, "model '9b'; allowed: tiny"),
        ({"only": ("speed",)}, "part 'speed'; allowed: attention, reorder, load, first-token"),
        ({"rows": (0,)}, "allowed: numbers from 1 on"),
    ],
)
def test_names_that_are_none_are_refused(tmp_path: Path, keys: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        bench_engine(options(tmp_path, **keys), lambda text: None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("command", ["engine", "trace"])
def test_without_a_gpu_it_is_refused_before_it_fills_the_memory(command: str) -> None:
    answer = CliRunner().invoke(cli.app, ["bench", command])
    assert isinstance(answer.exception, ConfigError) and "torch sees none" in str(answer.exception)


def test_the_command_passes_its_flags_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: list[EngineBenchOptions] = []
    monkeypatch.setattr(running, "bench_engine", given.append)
    flags = ["--models", "8b", "--only", "decode, memory", "--rows", "1,32", "--json", str(tmp_path / "x.json")]
    answer = CliRunner().invoke(cli.app, ["bench", "engine", *flags, "--written", "--device", "cpu"])
    assert answer.exit_code == 0, answer.output
    expected = EngineBenchOptions(("8b",), ("decode", "memory"), tmp_path / "x.json", (1, 32), "cpu", True)
    assert given == [expected]
    assert CliRunner().invoke(cli.app, ["bench", "engine", "--rows", "many"]).exit_code == 2
