"""`python -m benchmarks` end to end on the CPU with a bundled model, and what its command line refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from benchmarks import __main__ as command
from benchmarks.suite import figures
from benchmarks.suite.bars import bars
from benchmarks.suite.merge import merge
from benchmarks.suite.plan import Asked, Estimate, Planned
from benchmarks.suite.progress import progress
from benchmarks.suite.session import Session, Suite, read_results, write_results
from benchmarks.suite.table import markdown
from benchmarks.suite.ways import EngineWays
from benchmarks.suite.workloads import burst, profile

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--model", "llama-demo", "--device", "cpu", "--requests", "1,3", "--poisson", "20", "--total", "20"]


def status_of(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        command.main(list(arguments))
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("suite") / "run"
    rates = ["--rates", "60", "--minutes", "5"]
    assert status_of(*SMALL, *rates, "--out", str(out), "--ways", "fused,none,serial,instances,dynamic,static") == 0
    return out


def test_it_leaves_results_a_table_and_pictures(folder: Path) -> None:
    results = read_results(folder)
    assert {run.way for run in results.runs} == {"fused", "none", "serial", "instances", "dynamic", "static"}
    assert {run.kind for run in results.runs} == {"constant", "poisson", "random-totals", "chat"}
    assert all(run.single_s and run.layer == "engine" and run.model == "llama-demo" for run in results.runs)
    for run in results.runs:
        assert not any(request.error for request in run.requests)
        assert len(run.requests) == run.facts["num_requests"]
    assert results.commit and results.machine["torch"] and results.copy_bandwidth > 0 and results.products_ms[1] > 0
    assert results.command.startswith("python -m benchmarks --model llama-demo")
    assert {"results.json", "table.md", "overall-time.png", "poisson.png", "reorder-gain.png", "rows.png"} <= {
        path.name for path in folder.iterdir()
    }


def test_gaps_are_scaled_by_the_lone_request(folder: Path) -> None:
    results = read_results(folder)
    run = next(run for run in results.runs if run.workload == "constant-500ms-3")
    assert run.single_s is not None and results.scale == pytest.approx(run.single_s / 9.1)
    assert run.facts["gap_ms"] == pytest.approx(500 * results.scale)


def test_the_table_shows_the_runs_ratios_and_the_papers(folder: Path) -> None:
    results, text = read_results(folder), (folder / "table.md").read_text()
    fused = next(run for run in results.runs if (run.workload, run.way) == ("constant-500ms-3", "fused"))
    apart = figures.twin(results.runs, fused, "instances")
    assert apart is not None
    line = next(line for line in text.splitlines() if line.startswith("| 3 | 500 ms"))
    assert f"| {fused.wall_s:.3f} s | {apart.wall_s:.3f} s | {apart.wall_s / fused.wall_s:.2f} x |" in line
    titles = [line[3:].split(";")[0] for line in text.splitlines() if line.startswith("## ")]
    assert titles == [
        "Overall time by number of requests",
        "Bursts",
        "Poisson arrivals",
        "Reordering, random totals",
        "Other ways, requests that come apart",
        "Chat mix",
    ]
    assert "paper," not in text, "llama-demo is none of the paper's models"
    assert f"A lone request: {fused.single_s:.3f} s" in text


def test_the_papers_column_stands_beside_its_own_models_and_requests(folder: Path) -> None:
    results = read_results(folder)
    for run in results.runs:
        run.model = "13b"
        run.facts |= {"max_total": 512} if run.workload == "constant-500ms-1" else {}
    lines = markdown(results).splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("| requests | gap"))
    place = lines[at].split(" | ").index("paper, LLaMA-13B")
    alone, three = (line.split(" | ") for line in lines[at + 2 : at + 4])
    assert (alone[1], alone[place]) == ("–", "1.0 x"), "a lone request has no gap"
    assert (three[0], three[place]) == ("| 3", "–"), "three requests of 20 tokens are not the paper's"


def test_a_lone_request_of_a_layer_alone(folder: Path) -> None:
    results = read_results(folder)
    results.runs = [run for run in results.runs if run.workload == "burst-1"][:1]
    results.runs[0].layer, results.runs[0].single_s = "triton", 0.25
    assert f"A lone request: {results.single_s:.3f} s, 0.250 s through triton." in markdown(results)
    results.single_s = results.runs[0].single_s = None
    text = markdown(results)
    assert "A lone request" not in text and "–" not in text.split("##")[0]


def test_each_run_names_its_command_and_commit(folder: Path) -> None:
    results = read_results(folder)
    assert {(run.command, run.commit) for run in results.runs} == {(results.command, results.commit)}
    spaced = [run for run in results.runs if run.kind != "chat" and not run.workload.startswith("burst")]
    assert spaced and all(run.scale == pytest.approx((run.single_s or 0) / 9.1) for run in spaced)
    assert {run.scale for run in results.runs if run not in spaced} == {None}


def test_merged_files_keep_what_each_run_came_from(folder: Path, tmp_path: Path) -> None:
    later = read_results(folder)
    keep = ("burst-3", "poisson-20ms-3")
    later.runs = [run for run in later.runs if run.way == "fused" and run.workload in keep]
    for run in later.runs:
        run.command = run.commit = ""
        if run.workload == keep[1]:
            run.facts["scale"] *= 2
            run.requests = [msgspec.structs.replace(r, at=r.at * 2) for r in run.requests]
    later.command, later.commit = "python -m benchmarks later", "later"
    write_results(later, tmp_path / "later")
    out = tmp_path / "merged"
    assert status_of("--merge", str(folder / "results.json"), str(tmp_path / "later"), "--out", str(out)) == 0
    merged, first = read_results(out), read_results(folder)
    assert [run.commit for run in merged.runs[-2:]] == ["later"] * 2
    assert {run.commit for run in merged.runs[:-2]} == {first.commit}
    ways = {name: {run.way for run in merged.runs if run.workload == name} for name in keep}
    assert ways["burst-3"] == {run.way for run in first.runs if run.workload == "burst-3"}, "the same requests"
    assert ways["poisson-20ms-3"] == {"fused"}, "others came at other times"
    assert len(merged.runs) == len({(run.way, run.workload, repr(run.settings)) for run in merged.runs})
    text = (out / "table.md").read_text()
    assert "`python -m benchmarks later` (commit later)" in text and f"(commit {first.commit})" in text
    assert f" to {2 * first.scale:.4f}" in text and (out / "poisson.png").exists()


def test_what_cannot_be_merged(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = read_results(folder)
    for run in other.runs:
        run.model = "another"
    write_results(other, tmp_path / "other")
    assert status_of("--merge", str(folder), str(tmp_path / "other"), "--out", str(tmp_path / "out")) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "--merge of llama-demo on 1 x CPU (" in told and " and another on 1 x CPU (" in told
    assert "allowed: one model on one kind of machine" in told
    assert not (tmp_path / "out").exists()


def test_rerender_makes_the_same_again(folder: Path) -> None:
    table, picture = folder / "table.md", folder / "poisson.png"
    before = table.read_text()
    table.unlink()
    picture.unlink()
    assert status_of("--rerender", str(folder)) == 0
    assert table.read_text() == before and picture.exists()
    table.unlink()
    assert status_of("--rerender", str(folder / "results.json")) == 0
    assert table.read_text() == before, "the file for its folder"


def test_bars_are_for_13b_alone_and_can_be_missed(folder: Path) -> None:
    results = read_results(folder)
    assert bars(results) == []
    for run in results.runs:
        run.model, run.workload = "13b", run.workload.replace("-3", "-32")
    assert bars(results) == [], "their requests are shorter"
    for run in results.runs:
        run.facts["max_total"] = 512
    held = {line[0]: line[-1] for line in bars(results)}
    assert held["burst of 32, one after another over fused"] == "MISSED", "three requests are never 23 x faster"
    results.runs = [run for run in results.runs if run.way == "fused"]
    assert {line[-1] for line in bars(results)} >= {"not measured"}
    assert "## Bars of LLaMA-13B" in markdown(results)


def test_a_run_that_fails_is_told_and_the_rest_go_on(tmp_path: Path) -> None:
    sizes = profile("cpu").shortened(16)
    with progress() as tell, EngineWays("llama-demo", "cpu", "auto", lambda line: None) as ways:
        session = Session(Suite(Asked(sizes), "llama-demo", "cpu"), tmp_path, tell)
        session.single_s["engine"] = 1.0
        workload = burst(2, sizes, ways.vocab_size)
        bad = Planned("engine", "dynamic", workload, {"batch_size": 10**6})
        session.engine([bad, Planned("engine", "fused", workload)], Estimate(0.1, 8), ways)
    kept = read_results(tmp_path)
    assert [run.way for run in kept.runs] == ["fused"]
    assert len(kept.failed) == 1 and "batch_size" in kept.failed[0]
    assert f"## Failed\n\n- {kept.failed[0]}" in markdown(merge([kept, kept]))


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--ways", "fussed"], 2, "--ways 'fussed'; allowed: fused, none, serial"),
        (["--layers", "http"], 2, "--layers 'http'; allowed: engine, triton"),
        (["--requests", "1.5"], 2, "--requests 1.5; allowed: whole numbers"),
        (["--poisson", "-3"], 2, "--poisson '-3'; allowed: finite numbers above 0"),
        (["--poisson", "20,nan"], 2, "--poisson '20,nan'; allowed: finite numbers above 0"),
        (["--rates", "inf"], 2, "--rates 'inf'; allowed: finite numbers above 0"),
        (["--scale", "-1"], 2, "--scale -1; allowed: a finite number above 0"),
        (["--scale", "0"], 2, "--scale 0; allowed: a finite number above 0"),
        (["--scale", "nan"], 2, "--scale nan; allowed: a finite number above 0"),
        (["--scale", "inf"], 2, "--scale inf; allowed: a finite number above 0"),
        (["--minutes", "nan"], 2, "--minutes nan; allowed: a finite number from 0.1 on"),
        (["--minutes", "inf"], 2, "--minutes inf; allowed: a finite number from 0.1 on"),
        (["--minutes", "0.05"], 2, "--minutes 0.05; allowed: a finite number from 0.1 on"),
        (["--device", "tpu"], 2, "--device 'tpu'; allowed: auto, cuda, cpu"),
        (["--load-format", "weird"], 2, "--load-format 'weird'; allowed: auto, random"),
        (
            ["--layers", "perf_analyzer", "--ways", "serial"],
            2,
            "--layers perf_analyzer --ways serial; allowed: servers",
        ),
        (["--model", "nothing"], 1, "--model 'nothing'; allowed: a Hugging Face directory, a shape (13b, 8b"),
        (["--model", "llama-demo", "--total", "4096"], 1, "llama-demo allows 2048: give --total"),
        (["--rerender", "/nowhere"], 1, "/nowhere"),
        (["--rerender", "/nowhere", "--requests", "3"], 2, "--rerender measures nothing; give no --requests beside it"),
        (["--merge", "a.json", "--full"], 2, "--merge measures nothing; give no --full beside it"),
        (["--workloads", ""], 2, "--workloads names none; allowed: burst"),
        (["--merge"], 2, "--merge A.json B.json --out DIR takes files"),
        (["results.json"], 2, "--merge A.json B.json --out DIR takes files"),
        (["--merge", "/nowhere/results.json"], 1, "/nowhere/results.json"),
        (["--flover-config", "/nowhere.ini"], 1, "--flover-config /nowhere.ini cannot be read"),
    ],
)
def test_what_is_refused(
    arguments: list[str], status: int, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    device = [] if {"--device", "--merge"} & {*arguments} else ["--device", "cpu"]
    place = [] if "--rerender" in arguments else [*device, "--out", str(tmp_path / "new")]
    assert status_of(*arguments, *place) == status
    assert says in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "new").exists()


def test_a_table_of_a_run_that_was_stopped_says_so(tmp_path: Path) -> None:
    sizes = profile("cpu").shortened(16)
    with progress() as tell, EngineWays("llama-demo", "cpu", "auto", lambda line: None) as ways:
        session = Session(Suite(Asked(sizes), "llama-demo", "cpu"), tmp_path / "run", tell)
        session.stopped()
        assert not (tmp_path / "run").exists()
        session.single_s["engine"] = 1.0
        session.engine([Planned("engine", "fused", burst(2, sizes, ways.vocab_size))], Estimate(0.1, 8), ways)
        session.stopped()
    assert "- stopped by a signal: the runs that are not here were not made" in markdown(read_results(tmp_path / "run"))


def test_results_are_never_mixed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(*SMALL, "--out", str(folder)) == 1
    assert "which is not empty; give a new folder" in capsys.readouterr().err


@pytest.mark.parametrize("below", ["", "sub", "sub/sub"])
def test_a_file_is_no_folder_for_results(
    below: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "file"
    place.write_text("kept")
    for arguments in (SMALL, ["--merge", str(folder)]):
        assert status_of(*arguments, "--out", str(place / below)) == 1
        assert f"--out is {place / below}, which is no folder: " in " ".join(capsys.readouterr().err.split())
    assert place.read_text() == "kept"


def test_flover_bench_is_the_same_command_from_any_folder(tmp_path: Path) -> None:
    flover = [sys.executable, "-m", "flover_backend.cli", "bench"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    answer = subprocess.run(
        [*flover, "--ways", "fussed"], cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=60
    )
    assert answer.returncode == 2 and "--ways 'fussed'; allowed: fused" in " ".join(answer.stderr.split())
    listed = subprocess.run(
        [*flover, "--help"], cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=60
    )
    assert all(f"\n  {name} " in listed.stdout for name in ("suite", "ratios", "engine", "trace"))


def test_without_a_clone_the_error_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flover_backend import clone
    from flover_backend.errors import ConfigError

    monkeypatch.setattr(clone, "HERE", tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="from a clone of the repository run: python -m benchmarks"):
        clone.import_from_clone("benchmarks.__main__")
