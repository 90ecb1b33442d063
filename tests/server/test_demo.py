"""`flover demo` as a user runs it: to its end, and stopped by Ctrl-C at several moments. SmolLM2 in a real server."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
from commands import Command, marked, wait_until_gone
from terminal import Terminal

from flover_backend.importer.smollm2 import fetch_smollm2


@pytest.fixture(scope="module", autouse=True)
def smollm2() -> Path:
    """Fetched before any demo is timed or stopped."""
    return fetch_smollm2()


def test_the_demo_answers_every_question_and_leaves_a_picture(tmp_path: Path) -> None:
    picture = tmp_path / "demo.png"
    demo = Command(tmp_path, "demo", "--requests", "8", "--picture", str(picture))
    assert demo.wait(300) == 0, demo.text()
    text = demo.text()
    assert len(re.findall(r"request \d+ arrives", text)) == len(re.findall(r"request \d+ is finished", text)) == 8
    assert "1. What is the capital of France?\n    The capital of France is Paris.\n" in text
    assert re.search(r"most rows in one iteration +│ ([2-8]) ", text)
    assert re.search(r"tokens/s +│ \d+\.\d  \(\d+ tokens in ", text)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert wait_until_gone(demo.mark) == []


def test_flovers_own_demonstration_gives_every_answer_its_length(tmp_path: Path) -> None:
    options = ["--requests", "3", "--interval-ms", "50", "--lengths", "5:9", "--picture", str(tmp_path / "demo.png")]
    demo = Command(tmp_path, "demo", *options)
    assert demo.wait(300) == 0, demo.text()
    lengths = [int(found) for found in re.findall(r"is finished: (\d+) tokens", demo.text())]
    assert len(lengths) == 3
    assert all(5 <= length <= 9 for length in lengths)


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(r"SmolLM2", id="at the start"),
        pytest.param(r"starting a Triton server", id="while it loads"),
        pytest.param(r"in flight per iteration", id="at the first request", marks=pytest.mark.slow),
        pytest.param(r"\d/24 answered  [1-9]\d+ tokens", id="amid tokens"),
    ],
)
def test_ctrl_c_leaves_no_process_behind(tmp_path: Path, moment: str) -> None:
    demo = Terminal(tmp_path, "demo")
    try:
        demo.wait_for(moment)
        demo.press_ctrl_c()
        assert demo.wait() == 130, demo.text()
        assert "Traceback" not in demo.text()
        assert wait_until_gone(demo.mark) == []
        assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []
        assert list(tmp_path.glob("flover-server-*")) == []
    finally:
        for pid in marked(demo.mark):
            os.kill(pid, signal.SIGKILL)
