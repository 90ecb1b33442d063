"""`make bench-faults` at its shortest: every part measures, and nothing that was accepted is lost, bars held or not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from live_server import ROOT

FAULTS = (
    "10 ×",
    "read nothing",
    "deadline in the queue",
    "deadline in decode",
    "engine killed",
    "engine stopped",
    "load",
)


@pytest.mark.slow
def test_every_part_measures_and_nothing_is_lost(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.faults", "--repeats", "1", "--out", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=1500, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stdout + done.stderr
    assert "saved: " in done.stdout, done.stdout + done.stderr
    rows = json.loads((tmp_path / "faults.json").read_text())["rows"]
    assert all(any(fault in row["fault"] for row in rows) for fault in FAULTS)
    assert {row["lost"] for row in rows} == {"nothing"}
    values = [value for row in rows if "deadline" not in row["fault"] for value in row["values"]]
    assert all(value >= 0 for value in values), values  # a NaN is not
    assert (tmp_path / "faults.md").read_text().startswith("| fault |")
