"""The binary and its libraries, and what is said when one is missing."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmarks.pa import binary
from benchmarks.pa.binary import LIBRARIES, PerfAnalyzer, lay_out_perf_analyzer
from benchmarks.pa.errors import MeasurementFailed
from benchmarks.pa.run import explain, last_lines


def test_it_runs_with_the_linked_libraries_alone(tmp_path: Path) -> None:
    for _ in range(2):  # a folder of an earlier time is brought up to date
        analyzer = lay_out_perf_analyzer(tmp_path / "libraries")
    assert sorted(path.name for path in (tmp_path / "libraries").iterdir()) == sorted(LIBRARIES)
    asked = [str(analyzer.path), "--version"]
    done = subprocess.run(asked, env=analyzer.environment(), capture_output=True, text=True, check=True, timeout=60)
    assert "Perf Analyzer Version 2.51.0" in done.stdout + done.stderr


def test_another_binary_keeps_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/elsewhere")
    assert PerfAnalyzer(Path("/bin/true")).environment()["LD_LIBRARY_PATH"] == "/elsewhere"
    assert PerfAnalyzer(Path("/bin/true"), Path("/here")).environment()["LD_LIBRARY_PATH"] == "/here:/elsewhere"


def test_a_missing_library_is_named(tmp_path: Path) -> None:
    with pytest.raises(MeasurementFailed, match=r"holds no libb64\.so\.0d"):
        binary._library(tmp_path, "libb64.so.0d")


def test_an_end_by_a_signal_is_explained() -> None:
    said = explain(-6, "terminate called\nRequest received final response before request period was reached.\n", ["pa"])
    assert "was ended by signal 6" in said
    assert "fewer responses than tokens: give a smaller --request-period" in said


def test_its_usage_is_left_out() -> None:
    assert last_lines("Error: bad\nUsage: perf_analyzer [options]\n\t-m\n") == ["    Error: bad"]
    assert last_lines("Usage: perf_analyzer [options]\n\t-m\n") == ["    (it printed nothing)"]
    assert last_lines("") == ["    (it printed nothing)"]
