"""`python -m benchmarks.neighbours` runs through all its phases. What it measures is not judged here."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from live_server import ROOT


@pytest.mark.slow
def test_every_phase_has_a_line() -> None:
    command = [sys.executable, "-m", "benchmarks.neighbours", "--seconds", "1", "--max-rows", "2", "--instances", "1"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    rows = re.findall(r"^\| (ours [\w ()]+) \| ([\d,]+) \|", run.stdout, re.M)
    assert len(rows) == 6, run.stdout
    assert all(int(count.replace(",", "")) > 1 for _, count in rows)
