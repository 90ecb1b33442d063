"""The soak itself: short without faults, and its two-minute form with each of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from live_server import ROOT


def run_soak(out: Path, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.soak", *arguments, "--seed", "1", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    content: dict[str, Any] = json.loads((out / "soak.json").read_text())
    assert content["problems"] == []
    return content


def test_a_short_one_without_faults_accounts_for_every_request(tmp_path: Path) -> None:
    found = run_soak(tmp_path, "--minutes", "0.1", "--no-faults")
    assert found["faults"].keys() == {"nothing"}
    assert found["outcomes"]["finished"] > 0 and found["outcomes"]["refused"] > 0 and "lost" not in found["outcomes"]
    assert found["balance"].endswith(f"= {found['accepted']} accepted")


@pytest.mark.slow
def test_two_minutes_with_every_fault_lose_nothing(tmp_path: Path) -> None:
    found = run_soak(tmp_path, "--minutes", "2")
    assert len(found["faults"]) >= 3  # a slow machine does not come to the last ones
    assert found["balance"].endswith(f"= {found['accepted']} accepted")
