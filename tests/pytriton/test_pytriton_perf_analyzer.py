"""perf_analyzer on a PyTriton program: it asks for statistics, which PyTriton guards with a token."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pytriton_host import ACCESS_TOKEN, Host

from tests.benchmarks.pa_command import measure

HEADER = "triton-grpc-protocol-triton-access-token"


@pytest.mark.slow
def test_figures_and_no_token_in_what_is_written(host: Host, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    asked = ["concurrency", "--url", host.grpc_url, "--out", str(folder), "--concurrency", "3", "--requests", "6"]
    done = measure([*asked, "--output-tokens", "24", "--header", f"{HEADER}:{ACCESS_TOKEN}"])
    assert done.returncode == 0, done.stdout + done.stderr
    (result,) = json.loads((folder / "figures.json").read_text())["results"]
    figures = result["figures"]
    assert figures["num_tokens"] == figures["num_asked_tokens"] == 6 * 24
    assert figures["num_empty_finals"] == 6, "PyTriton's FINAL comes by itself"
    written = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".png"]
    assert len(written) > 4
    assert not [path for path in written if ACCESS_TOKEN in path.read_text()]
    assert ACCESS_TOKEN not in done.stdout + done.stderr


@pytest.mark.slow
def test_without_the_token_it_is_told(host: Host, tmp_path: Path) -> None:
    done = measure(["concurrency", "--url", host.grpc_url, "--out", str(tmp_path / "out"), "--requests", "8"])
    assert done.returncode == 1
    assert "restricted" in done.stderr and "Traceback" not in done.stderr
