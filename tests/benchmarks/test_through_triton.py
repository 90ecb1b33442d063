"""`python -m benchmarks.through_triton` on the CPU, and how its lines are judged."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import triton_own
from benchmarks.through_triton import __main__ as through_triton_command
from benchmarks.through_triton.bare import Bare, BareRun
from benchmarks.through_triton.bars import BURSTS, Marks
from benchmarks.through_triton.measure import Asked, Measured, Seen, Through, max_tokens
from benchmarks.through_triton.record import write_record
from benchmarks.through_triton.table import line_of, markdown, misses

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
ASKED = Asked("13b", (256,))
SEEN = Seen(
    wall_s=14.0, tokens_per_s=9216.0, first_p50=100.0, first_p99=130.0, gap_p50=27.0, gap_p99=35.0,
    together=0.01, num_requests=256, num_short=0,
)  # fmt: skip
BARE = BareRun(wall_s=13.7, tokens=256 * 504, iterations=504, first_p50_ms=60.0)


def line(**changes: float) -> Measured:
    plain = {name: getattr(SEEN, name) for name in SEEN.__struct_fields__} | changes
    return Measured(part="burst", model="13b", streams=256, seen=[Seen(**plain)], bare=[BARE])  # type: ignore[arg-type]


def test_each_bar_can_be_missed_and_held() -> None:
    bar = BURSTS["13b", 256].bar
    assert misses(line(), bar) == []
    assert misses(line(wall_s=14.3), bar) == ["of the engine", "wall"]
    assert misses(line(wall_s=14.15), bar) == ["of the engine"]
    assert misses(line(first_p50=121, gap_p99=41), bar) == ["first p50", "gap p99"]
    assert misses(line(num_short=1), Marks()) == ["every token"]
    assert misses(Measured(part="burst", model="13b", streams=256, seen=[SEEN]), bar) == ["of the engine"]


def test_a_line_that_was_not_measured_is_missed_whether_it_has_bars_or_not() -> None:
    through = Through(replace(ASKED, model="llama-demo"), print)
    lines = through.wanted(("burst", "chat", "pytriton"))
    assert [one.title for one in lines] == [
        "llama-demo, burst of 256", "llama-demo, chat of 300", "llama-demo, chat, own generator of 300",
        "llama-demo, pytriton of 32",
    ]  # fmt: skip
    assert all(misses(one, bar) == ["not measured"] for one in lines for bar in (Marks(), BURSTS["13b", 256].bar))
    rows = markdown(lines, ASKED, {}).splitlines()
    assert len({row.count("|") for row in rows}) == 1
    assert all(row.endswith("| missed: not measured |") for row in rows[2:])


def test_a_client_that_measures_nothing_is_no_success(tmp_path: Path) -> None:
    small = ["--only", "burst", "--streams", "1", "--new", "8", "--repeats", "1", "--perf-analyzer", "/bin/false"]
    done = run("--model", "llama-demo", *small, "--out", str(tmp_path))
    assert done.returncode == 1 and "missed: llama-demo, burst of 1: not measured" in done.stderr, done.stderr
    (line,) = json.loads((tmp_path / "through_triton.json").read_text())["lines"]
    assert (line["part"], line["streams"], line["missed"]) == ("burst", 1, ["not measured"])
    assert "missed: not measured" in (tmp_path / "through_triton.md").read_text()


@pytest.mark.parametrize("program", ["through_triton", "triton_own"])
def test_results_are_never_mixed(program: str, tmp_path: Path) -> None:
    old = tmp_path / f"{program}.md"
    old.write_text("old")
    for place, says in ((tmp_path, "which is not empty; give a new folder"), (old, "which is no folder: File exists")):
        done = run("--model", "llama-demo", "--out", str(place), program=f"benchmarks.{program}")
        assert done.returncode == 1 and says in done.stderr and "Traceback" not in done.stderr, done.stderr
        assert not done.stdout and [path.name for path in tmp_path.iterdir()] == [old.name]


def test_bars_are_for_their_own_workload() -> None:
    assert line_of(line(), ASKED).bar == BURSTS["13b", 256].bar
    assert line_of(line(), replace(ASKED, new=32)).bar == Marks()
    chat = Measured(part="chat", model="13b", streams=300, seen=[SEEN])
    assert line_of(chat, ASKED).bar.gap_p99 == 25
    assert line_of(chat, replace(ASKED, chat_rate=10.0)).bar == Marks()


def test_vllm_is_scaled_by_the_weight_products_of_the_run() -> None:
    (*_, row) = markdown([line()], ASKED, {256: 2 * 11.73}).splitlines()
    assert "72.0% of vLLM, 46.400 s, first 560 ms, gap p99 244 ms" in row and row.endswith("| held |")
    assert "of vLLM" not in markdown([line()], ASKED, {})


def test_a_record_names_its_command_and_its_machine(tmp_path: Path) -> None:
    bare = Bare({"commit": "abc", "torch": "2.11"}, {"burst-256": [BARE]}, 4e12, {32: 6.8})
    write_record(tmp_path / "some.json", "benchmarks.some", bare, time.monotonic() - 5, streams=256, bare=[BARE])
    found = json.loads((tmp_path / "some.json").read_text())
    assert found["command"].startswith("python -m benchmarks.some") and found["machine"]["commit"] == "abc"
    assert found["copy_bandwidth"] == 4e12 and found["products_13b_ms"] == {"32": 6.8} and found["seconds"] >= 5
    assert found["bare"][0]["wall_s"] == BARE.wall_s and found["streams"] == 256


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*/*.json")), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_kept_result_names_its_command_machine_and_commit(path: Path) -> None:
    head = json.loads(path.read_text())
    assert head["command"].startswith("python -m benchmarks") and "H200" in head["machine"]["gpu"]
    assert head["machine"]["commit"] and head["machine"]["torch"] and ("lines" in head or "runs" in head)
    is_merged = len({run.get("command") for run in head.get("runs", ())}) > 1
    assert (head["copy_bandwidth"] and (head["seconds"] or is_merged)) or "not saved" in head["note"]


@pytest.mark.slow
def test_the_whole_command_on_the_cpu(tmp_path: Path) -> None:
    small = ["--streams", "1,3", "--new", "16", "--pytriton-streams", "3", "--chat-requests", "6", "--repeats", "1"]
    done = run("--model", "llama-demo", *small, "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    lines = json.loads((tmp_path / "through_triton.json").read_text())["lines"]
    told = [(one["part"], one["streams"]) for one in lines]
    assert told == [("burst", 1), ("burst", 3), ("chat", 6), ("chat, own generator", 6), ("pytriton", 3)]
    assert all(seen["num_short"] == 0 for one in lines for seen in one["seen"])
    assert all(0 < one["share"] < 1.5 for one in lines if one["bare"])


@pytest.mark.slow
def test_the_other_two_files_are_headed_alike(tmp_path: Path) -> None:
    profile = ["--only", "profile", "--counts", "1", "--senders", "2", "--profile-streams", "2", "--new", "8"]
    assert run("--model", "llama-demo", *profile, "--out", str(tmp_path / "through_triton")).returncode == 0
    own = ["--requests", "2", "--new", "8", "--gaps", "0", "--instances", "1", "--delays", "0"]
    assert (
        run(
            "--model", "llama-demo", *own, "--out", str(tmp_path / "triton_own"), program="benchmarks.triton_own"
        ).returncode
        == 0
    )
    for name, program, counts in (
        ("profile", "through_triton", {"lines": 1}),
        ("triton_own", "triton_own", {"runs": 4}),
    ):
        found = json.loads((tmp_path / program / f"{name}.json").read_text())
        assert found["command"].startswith(f"python -m benchmarks.{program} --model llama-demo")
        assert found["machine"]["torch"] and found["copy_bandwidth"] > 0 and found["seconds"] > 0
        assert {key: len(found[key]) for key in counts} == counts


@pytest.mark.parametrize(
    ("program", "arguments", "says"),
    [
        ("through_triton", "--only bursts", "--only is 'bursts'; allowed: burst, chat, pytriton, profile"),
        ("through_triton", "--streams 0", "--streams is '0'; allowed are whole numbers from 1 on"),
        ("through_triton", "--chat-rate 0", "--chat-rate is 0; allowed are numbers above 0"),
        ("through_triton", "--chat-rate=-5", "--chat-rate is -5; allowed are numbers above 0"),
        ("through_triton", "--chat-rate nan", "--chat-rate is nan; allowed are numbers above 0"),
        ("through_triton", "--chat-rate inf", "--chat-rate is inf; allowed are numbers above 0"),
        ("through_triton", "--new 100000", "8 + 100000 = 100008 tokens; llama-demo allows 2 .. 2048 a request"),
        ("triton_own", "--new 100000", "8 + 100000 = 100008 tokens; llama-demo allows 2 .. 2048 a request"),
        ("triton_own", "--delays=-1", "--delays is '-1'; allowed are whole numbers from 0 on"),
    ],
)
def test_what_is_refused(
    program: str, arguments: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = {"through_triton": through_triton_command, "triton_own": triton_own}[program]
    with pytest.raises(SystemExit) as ended:
        command.main(["--model", "llama-demo", *arguments.split(), "--out", str(tmp_path / "new")])
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert says in " ".join(err.split()) and not out
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("model", ["13b", "8b", "gptj-6b", "llama-demo", "gptj-demo"])
def test_the_longest_request_of_a_model_is_known(model: str) -> None:
    assert max_tokens(model) >= 2048


def run(*arguments: str, program: str = "benchmarks.through_triton") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)


def test_clients_need_no_torch() -> None:
    """A server's interpreter may have none; the engine's is named by ENGINE_PYTHON."""
    modules = "benchmarks.through_triton.__main__, benchmarks.suite.layers.program, benchmarks.suite.layers.analyzer"
    code = f"import sys, {modules}; sys.exit(' '.join({{'torch', 'matplotlib'}} & sys.modules.keys()) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr
