"""scripts/debian_tools.py: what it finds, what it unpacks, what it says when it cannot."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from live_server import ROOT
from tools import program

SCRIPT = ROOT / "scripts" / "debian_tools.py"


def run(*names: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *names]
    return subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_a_program_on_the_path_is_taken_as_it_is(tmp_path: Path) -> None:
    own = tmp_path / "promtool"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    answer = run("promtool", PATH=str(tmp_path), FLOVER_DEBIAN_CACHE=str(tmp_path / "cache"))
    assert answer.stdout.strip() == str(own)


def test_without_debians_tools_it_says_what_to_do(tmp_path: Path) -> None:
    answer = run("promtool", PATH=str(tmp_path), FLOVER_DEBIAN_CACHE=str(tmp_path / "cache"))
    assert answer.returncode == 1
    assert "no apt-get here, and prometheus is not on PATH: install prometheus by hand" in answer.stderr


def test_a_program_that_it_does_not_know_is_named() -> None:
    answer = run("grafana")
    assert answer.returncode == 1
    assert "'grafana'; known programs: prometheus, promtool, kubectl" in answer.stderr


@pytest.mark.slow
def test_two_at_once_unpack_once_and_install_nothing(tmp_path: Path) -> None:
    program("promtool")  # skips where Debian's archive is out of reach
    if shutil.which("promtool"):
        pytest.skip("promtool is on PATH: nothing to unpack")
    command = [sys.executable, str(SCRIPT), "promtool"]
    environment = os.environ | {"FLOVER_DEBIAN_CACHE": str(tmp_path)}
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    places = {one.communicate(timeout=300)[0].strip() for one in both}
    assert places == {str(tmp_path / "prometheus" / "usr" / "bin" / "promtool")}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prometheus", "prometheus.lock"]
    version = subprocess.run([*places, "--version"], capture_output=True, text=True, check=False)
    assert "promtool, version" in version.stdout
    assert shutil.which("promtool") is None
