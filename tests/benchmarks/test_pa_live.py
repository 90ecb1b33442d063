"""perf_analyzer in each of its modes on a live server, and its failures."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from live_server import LiveServer
from pa_command import measure

from benchmarks.pa import modes
from benchmarks.pa.binary import lay_out_perf_analyzer
from benchmarks.pa.complete import until_complete
from benchmarks.pa.errors import MeasurementFailed
from benchmarks.pa.export import read_export
from benchmarks.pa.inputs import Lengths, Prompts, make_entries
from benchmarks.pa.modes import Extent
from benchmarks.pa.probe import Probe
from benchmarks.pa.run import Target, command, run
from benchmarks.pa.session import read_results

REQUESTS, CONCURRENCY, PERIODIC = 16, 4, "2:12:2"
PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def folder(server: LiveServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run of all modes left."""
    folder = tmp_path_factory.mktemp("perf") / "out"
    done = measure(
        [
            *("all", "--url", server.grpc_url, "--out", str(folder), "--requests", str(REQUESTS)),
            *("--concurrency", str(CONCURRENCY), "--rate", "16", "--periodic", PERIODIC, "--request-period", "1"),
            *("--prompt-tokens", "2:12", "--output-tokens", "16:32", "--", "--max-threads", "6"),
        ]
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "time to first token" in done.stdout and "requests sent" not in done.stderr
    return folder


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, dict[str, Any]]:
    found = json.loads((folder / "figures.json").read_text())["results"]
    return {result["label"].split("-")[0]: result for result in found}


@pytest.mark.parametrize("mode", ["concurrency", "rate", "poisson", "intervals", "periodic"])
def test_every_token_that_was_asked_for_is_in_the_figures(results: dict[str, dict[str, Any]], mode: str) -> None:
    figures = results[mode]["figures"]
    assert figures["num_requests"] == (12 if mode == "periodic" else REQUESTS)
    assert figures["num_tokens"] == figures["num_asked_tokens"]
    assert 16 * figures["num_requests"] <= figures["num_tokens"] <= 32 * figures["num_requests"]
    assert 2 * figures["num_requests"] <= figures["num_prompt_tokens"] <= 12 * figures["num_requests"]
    assert figures["num_short"] == figures["num_empty_finals"] == 0
    assert figures["num_responses"] <= figures["num_tokens"]
    assert figures["tokens_per_s"] == pytest.approx(figures["num_tokens"] / figures["seconds"])


@pytest.mark.parametrize("mode", ["concurrency", "rate", "poisson", "intervals", "periodic"])
def test_times_are_in_order(results: dict[str, dict[str, Any]], mode: str) -> None:
    figures, requests = results[mode]["figures"], results[mode]["requests"]
    assert all(0 <= one["sent"] < one["first_token"] <= one["ended"] <= figures["seconds"] for one in requests)
    for name in ("first_token", "inter_token", "response_gap", "per_output_token", "latency"):
        spread = figures[name]
        order = ("least", "p1", "p10", "p50", "p90", "p99", "most")
        assert all(spread[a] <= spread[b] for a, b in itertools.pairwise(order)), (name, spread)
    assert figures["inter_token"]["count"] <= figures["num_tokens"] - figures["num_requests"]
    levels = [level for _, level in results[mode]["in_flight"]]
    assert levels[-1] == 0 and max(levels) == figures["most_in_flight"]


def test_in_flight_is_what_was_asked_for(results: dict[str, dict[str, Any]]) -> None:
    assert results["concurrency"]["figures"]["most_in_flight"] == CONCURRENCY
    assert 2 <= results["periodic"]["figures"]["most_in_flight"] <= 12


def test_every_run_leaves_its_files(folder: Path, results: dict[str, dict[str, Any]]) -> None:
    for result in results.values():
        run_folder = folder / result["label"]
        assert (run_folder / "picture.png").read_bytes().startswith(PNG)
        assert "--max-threads 6" in (run_folder / "command.txt").read_text()
        assert json.loads((run_folder / "profile.json").read_text())["version"]
    text = (folder / "figures.md").read_text()
    assert all(f"## {result['what']}" in text for result in results.values())
    assert text.count("| inter-token latency, ms |") == len(results)


def test_gaps_follow_the_file(server: LiveServer, tmp_path: Path) -> None:
    gaps, inputs, export = tmp_path / "gaps.txt", tmp_path / "inputs.json", tmp_path / "profile.json"
    gaps.write_text("0\n0\n0\n900000\n")
    inputs.write_text(json.dumps({"data": make_entries(12, Prompts(Lengths(3, 3)), Lengths(4, 4), 1, 0.0)}))
    analyzer = lay_out_perf_analyzer(tmp_path / "libraries")
    load = modes.intervals(gaps, "gaps", "gaps", Extent(12))
    line = command(analyzer, Target(server.grpc_url), inputs, export, load.arguments)
    (experiment,) = until_complete(
        lambda: run(analyzer, line, tmp_path / "log", 60), lambda: read_export(export), export, print
    )
    sent = [one.sent for one in experiment.requests]
    assert len(sent) == 12
    # Four at once, then a pause: the third four come 1.8 s after the first, and never earlier.
    assert (sent[-1] - sent[0]) / 1e9 > 1.3


def test_an_empty_last_response_of_a_real_server_is_left_out(
    server: LiveServer, late_final: str, tmp_path: Path
) -> None:
    """perf_analyzer asks for empty final responses and stores them with whatever its memory held."""
    entries = [
        {name: entry[name] for name in ("input_ids", "max_tokens")}
        for entry in make_entries(6, Prompts(Lengths(3, 3)), Lengths(5, 5), 1, 0.0)
    ]
    inputs, export = tmp_path / "inputs.json", tmp_path / "profile.json"
    inputs.write_text(json.dumps({"data": entries}))
    analyzer = lay_out_perf_analyzer(tmp_path / "libraries")
    arguments = ["--concurrency-range", "2", "--request-count", "6"]
    line = command(analyzer, Target(server.grpc_url, late_final), inputs, export, arguments)
    (result,) = until_complete(
        lambda: run(analyzer, line, tmp_path / "log", 60),
        lambda: read_results(export, "late", "late", tmp_path),
        export,
        print,
    )
    stored = json.loads(export.read_text())["experiments"][0]["requests"]
    assert {len(request["response_timestamps"]) for request in stored} == {6}
    assert (result.figures.num_empty_finals, result.figures.num_tokens, result.figures.num_responses) == (6, 30, 30)


def test_an_error_response_is_told_in_the_servers_words(server: LiveServer, tmp_path: Path) -> None:
    entries = make_entries(4, Prompts(Lengths(3, 3)), Lengths(5, 5), 1, 0.0)
    entries[2]["max_tokens"] = [100_000]
    inputs = tmp_path / "inputs.json"
    inputs.write_text(json.dumps({"data": entries}))
    analyzer = lay_out_perf_analyzer(tmp_path / "libraries")
    arguments = ["--concurrency-range", "1", "--request-count", "4"]
    line = command(analyzer, Target(server.grpc_url), inputs, tmp_path / "profile.json", arguments)
    with pytest.raises(MeasurementFailed) as error:
        run(analyzer, line, tmp_path / "log", 60)
    assert "max_tokens: got 100000" in str(error.value)
    assert "An error response to any request ends perf_analyzer's run" in str(error.value)


def test_a_request_that_fails_in_periodic_mode_ends_at_the_limit(server: LiveServer, tmp_path: Path) -> None:
    entries = make_entries(4, Prompts(Lengths(3, 3)), Lengths(60, 60), 1, 0.0)  # coalesced or not, two responses
    entries[2]["max_tokens"] = [100_000]
    inputs = tmp_path / "inputs.json"
    inputs.write_text(json.dumps({"data": entries}))
    analyzer = lay_out_perf_analyzer(tmp_path / "libraries")
    arguments = ["--periodic-concurrency-range", "2:4:2", "--request-period", "2"]
    line = command(analyzer, Target(server.grpc_url), inputs, tmp_path / "profile.json", arguments)
    with pytest.raises(MeasurementFailed, match="In periodic mode it waits for ever when a request fails"):
        run(analyzer, line, tmp_path / "log", 4)


def test_the_longest_request_is_tried_first(server: LiveServer, tmp_path: Path) -> None:
    arguments = ["--url", server.grpc_url, "--output-tokens", "10:9000", "--out", str(tmp_path / "out")]
    done = measure(arguments)
    assert done.returncode == 1
    assert "the server refuses the longest of the requests: max_tokens" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_flag_for_perf_analyzer_is_told_without_its_whole_usage(server: LiveServer, tmp_path: Path) -> None:
    arguments = ["--url", server.grpc_url, "--out", str(tmp_path / "out"), "--requests", "8", "--", "--nonsense"]
    done = measure(arguments)
    assert done.returncode == 1
    assert "unrecognized option '--nonsense'" in done.stderr
    assert "SYNOPSIS" not in done.stderr and len(done.stderr.splitlines()) < 10


def test_a_server_that_is_not_there_is_told() -> None:
    with (
        Probe(Target("127.0.0.1:1")) as probe,
        pytest.raises(MeasurementFailed, match=r"no model flover at 127\."),
    ):
        probe.check()


def test_a_model_that_is_not_there_is_told(server: LiveServer) -> None:
    with Probe(Target(server.grpc_url, "nope")) as probe, pytest.raises(MeasurementFailed, match="no model nope at"):
        probe.check()


def test_a_run_whose_export_breaks_off_is_repeated(server: LiveServer, tmp_path: Path) -> None:
    real = lay_out_perf_analyzer(tmp_path / "libraries")
    once = tmp_path / "cuts_its_first_export_short"
    once.write_text(
        f"""#!/bin/sh
export LD_LIBRARY_PATH={tmp_path / "libraries"}:$LD_LIBRARY_PATH
{real.path} "$@" || exit 1
[ -e {tmp_path}/cut ] || {{ : >{tmp_path}/cut; truncate -s -200 {tmp_path}/out/*/profile.json; }}
"""
    )
    once.chmod(0o755)
    done = measure(
        [
            *("concurrency", "--url", server.grpc_url, "--out", str(tmp_path / "out"), "--concurrency", "2"),
            *("--requests", "4", "--output-tokens", "8", "--perf-analyzer", str(once)),
        ]
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("measuring again") + done.stderr.count("measuring again") == 1
    assert len(read_export(next((tmp_path / "out").glob("*/profile.json")))[0].requests) == 4
