"""The corpus: what fuzzers found, and what they start from. Every file is taken or refused in order, each time."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from targets import CORPUS, TARGETS, corpus_of

DRIVER = Path(__file__).with_name("fuzz.py")


@pytest.mark.parametrize("name", TARGETS)
def test_every_file_of_the_corpus(name: str) -> None:
    files = corpus_of(name)
    assert len(files) >= 3
    for path in files:
        try:
            TARGETS[name](path.read_bytes())
        except Exception as error:
            raise AssertionError(f"{path.relative_to(CORPUS)}: {type(error).__name__}: {error}") from error


def test_the_corpus_holds_nothing_else() -> None:
    assert sorted(path.name for path in CORPUS.iterdir()) == sorted(TARGETS)
    assert all(path.stat().st_size <= 16_384 for path in CORPUS.rglob("*") if path.is_file())


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_guided_by_coverage(name: str) -> None:
    """atheris for a while, in a process of its own (libFuzzer ends it)."""
    command = [sys.executable, str(DRIVER), "--runs", "4000", name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert re.search(rf"{name}: [1-9]\d+ inputs", done.stdout)
