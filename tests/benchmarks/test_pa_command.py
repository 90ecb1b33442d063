"""The command line itself: what it refuses, reading an export, text prompts, time windows, a server of its own."""

from __future__ import annotations

import inspect
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from live_server import ROOT, LiveServer, is_running
from pa_command import measure
from pa_exports import request, tokens, write

from benchmarks import perf_analyzer
from benchmarks.load import load
from benchmarks.pa.modes import Mode
from benchmarks.through_triton.__main__ import through_triton
from benchmarks.triton_own import triton_own
from flover_backend.cli_options import flag_of


def results_of(out: Path) -> list[dict[str, Any]]:
    return json.loads((out / "figures.json").read_text())["results"]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--url", "127.0.0.1:1", "--max-rows", "4"], "--url names a server that runs already: --max-rows"),
        (["--url", "127.0.0.1:1", "--instances", "2"], "--instances cannot change it"),
        (["--prompt-file", "/nowhere"], "--prompt-file is /nowhere"),
        (["--output-tokens", "9:3"], "--output-tokens is '9:3'"),
        (["--concurrency", "4", "--requests", "2"], "--requests is 2, less than --concurrency 4"),
        (["--read", "/nowhere.json"], "/nowhere.json is not a complete export"),
    ],
)
def test_refused_before_anything_starts(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        perf_analyzer.main([*arguments, "--out", str(tmp_path / "out")])
    assert end.value.code == 1
    assert says in capsys.readouterr().err


def test_results_are_never_mixed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "figures.json").write_text("{}")
    with pytest.raises(SystemExit):
        perf_analyzer.main(["--out", str(tmp_path)])
    assert "which is not empty; give a new folder" in capsys.readouterr().err


def test_an_export_of_several_experiments_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = [(10.0, tokens(1)), (14.0, tokens(2, 3))]
    export = write(tmp_path / "sweep.json", [request(0, answer)], [request(0, answer), request(2, [(9.0, tokens(4))])])
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as end:
        perf_analyzer.main(["--read", str(export), "--out", str(out)])
    assert not end.value.code
    one, two = results_of(out)
    assert (one["label"], two["label"]) == ("sweep-1", "sweep-2")
    assert (one["figures"]["num_tokens"], two["figures"]["num_tokens"]) == (3, 4)
    assert two["figures"]["most_in_flight"] == 2
    assert one["figures"]["inter_token"]["mean"] == pytest.approx(0.002)
    assert {path.name for path in out.iterdir()} == {"figures.json", "figures.md", "picture-1.png", "picture-2.png"}
    assert "concurrency 2" in capsys.readouterr().out


def page_sections() -> dict[str, str]:
    """Heading -> text of docs/measuring.md; what comes before the first is `""`."""
    first, *sections = (ROOT / "docs" / "measuring.md").read_text().split("\n## ")
    return {"": first} | dict(section.split("\n", 1) for section in sections)


def flags_of(*commands: Callable[..., Any]) -> set[str]:
    return {flag_of(name) for command in commands for name in inspect.signature(command).parameters}


@pytest.mark.parametrize(
    ("headings", "allowed"),
    [
        (
            ("", "Modes", "What comes out", "Pitfalls of perf_analyzer 2.51"),
            flags_of(perf_analyzer.perf_analyzer)
            | {"--perf-analyzer", "--max-threads", "--warmup-request-count", "--stability-percentage", "--max-trials"},
        ),
        (("A load generator of our own",), flags_of(load)),
        (("Through Triton, beside the bare engine",), flags_of(through_triton, triton_own)),
    ],
)
def test_the_page_names_no_flag_that_does_not_exist(headings: tuple[str, ...], allowed: set[str]) -> None:
    page = "".join(page_sections()[heading] for heading in headings)
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", page))
    assert named and named <= allowed


def test_the_page_names_every_mode() -> None:
    assert {f"`{mode.value}" for mode in Mode} <= set(re.findall(r"`[a-z]+", page_sections()["Modes"]))


@pytest.mark.slow
def test_text_prompts_for_some_seconds(server: LiveServer, tmp_path: Path) -> None:
    prompts, out = tmp_path / "prompts.txt", tmp_path / "out"
    prompts.write_text("In the beginning\n\nAnd it came to pass – that\n")
    done = measure(
        [
            *("concurrency", "--concurrency", "2", "--seconds", "3", "--prompt-file", str(prompts)),
            *("--output-tokens", "8", "--url", server.grpc_url, "--out", str(out)),
        ]
    )
    assert done.returncode == 0, done.stderr
    (result,) = results_of(out)
    figures = result["figures"]
    assert figures["num_prompt_tokens"] is None
    assert figures["num_tokens"] == 8 * figures["num_requests"] > 0
    assert figures["most_in_flight"] == 2
    entries = json.loads((out / "concurrency-2" / "inputs.json").read_text())["data"]
    assert [entry["text_input"][0] for entry in entries[:2]] == ["In the beginning", "And it came to pass – that"]


@pytest.mark.slow
def test_a_server_of_its_own_ends_with_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = measure(["--concurrency", "2,4", "--requests", "8", "--max-rows", "4", "--out", str(out)])
    assert done.returncode == 0, done.stderr
    assert [result["figures"]["most_in_flight"] for result in results_of(out)] == [2, 4]
    assert [result["figures"]["num_tokens"] for result in results_of(out)] == [256, 256]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_no_process(number: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.perf_analyzer", "rate", "--rate", "2", "--requests", "400"]
    with subprocess.Popen(
        [*command, "--out", str(tmp_path / "out")],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        while "requests sent" not in (line := process.stdout.readline()):
            assert line, process.stderr.read()
        below = descendants(process.pid)
        assert len(below) >= 4, "perf_analyzer, tritonserver, its stub, the engine"
        os.killpg(process.pid, number)  # as a terminal does; the server is in a session of its own
        assert process.wait(90) == 130
        assert "perf_analyzer: stopped" in process.stderr.read()
    deadline = time.monotonic() + 10
    while any(is_running(pid) for pid in below) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in below if is_running(pid)]


def descendants(pid: int) -> list[int]:
    found, new = [], [pid]
    while new:
        threads = [thread for one in new for thread in Path(f"/proc/{one}/task").iterdir()]
        new = [int(child) for thread in threads for child in (thread / "children").read_text().split()]
        found += new
    return found
