"""The suite's own load generator on a live server: every token, cancels, answers in one response, overload."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from live_server import LiveServer

from benchmarks.pa.errors import MeasurementFailed
from benchmarks.pa.run import Target
from benchmarks.suite.layers import open_layer
from benchmarks.suite.layers.client import generate
from benchmarks.suite.layers.triton_own.layer import plain_config
from benchmarks.suite.load.calls import Call, Mix, calls_of
from benchmarks.suite.load.generator import send_calls
from benchmarks.suite.workload import BenchRequest, Workload
from benchmarks.suite.workloads import prompt_ids
from benchmarks.through_triton.cpu import look
from benchmarks.through_triton.profile import settings_of


def workload(count: int, gap: float = 0.02, new: int = 12) -> Workload:
    prompts = prompt_ids([5] * count, 500, 1)
    return Workload("some", "constant", tuple(BenchRequest(gap * i, ids, new) for i, ids in enumerate(prompts)))


def test_two_processes_send_at_their_times_and_count_every_token(server: LiveServer) -> None:
    asked = workload(10)
    run = generate(Target(server.grpc_url), asked, "triton", "llama-demo", processes=2)
    assert [r.new_tokens for r in run.requests] == [12] * 10
    assert all(r.at <= r.sent < r.first <= r.end and not r.error for r in run.requests)
    assert [r.at for r in run.requests] == [r.at for r in asked.requests]
    assert run.num_responses is not None and 20 <= run.num_responses <= 120
    assert run.gaps_ms["p50"] <= run.gaps_ms["p99"] <= run.gaps_ms["max"]


def test_cancelled_refused_and_whole_answers_stand_beside_streams(server: LiveServer) -> None:
    prompts = prompt_ids([5] * 6, 500, 1)
    calls = [
        Call(0.0, prompts[0], 40),
        Call(0.0, prompts[1], 400, cancel_after=3),
        Call(0.0, prompts[2], 400, cancel_after=0),
        Call(0.0, prompts[3], 9, streams=False),
        Call(0.0, prompts[4], 100_000),
        Call(0.0, prompts[5], 100_000, cancel_after=3),
    ]
    streamed, cancelled, at_once, whole, *refusals = send_calls(Target(server.grpc_url), calls, processes=1)
    assert (streamed.num_tokens, streamed.code, streamed.cancelled) == (40, "", False)
    assert cancelled.cancelled and not cancelled.code and 3 <= cancelled.num_tokens < 400
    assert at_once.cancelled and at_once.num_tokens < 400
    assert (whole.num_tokens, len(whole.times)) == (9, 1)
    for refused in refusals:  # one that was to be cancelled is none the less refused
        assert refused.code == "INVALID_ARG" and "max_tokens" in refused.message and not refused.num_tokens


def test_a_mix_follows_from_its_seed() -> None:
    asked = workload(200)
    calls = calls_of(asked, Mix(cancel_share=0.25, whole_share=0.5, seed=7))
    assert calls == calls_of(asked, Mix(cancel_share=0.25, whole_share=0.5, seed=7))
    assert 25 <= sum(call.cancel_after is not None for call in calls) <= 75
    assert 70 <= sum(not call.streams for call in calls) <= 130
    with pytest.raises(MeasurementFailed, match=r"cancel_share is 1\.5; allowed is 0 to 1"):
        Mix(cancel_share=1.5)


def test_nobody_at_the_address_is_told() -> None:
    with pytest.raises(MeasurementFailed, match=r"failed at 127\.0\.0\.1:1"):
        send_calls(Target("127.0.0.1:1"), [Call(0.0, (5,), 1)], processes=1, connect_timeout_s=0.5)


def test_the_command_shows_a_table_and_saves_every_request(server: LiveServer, tmp_path: Path) -> None:
    saved = tmp_path / "run.json"
    flags = ("--rate", "60", "--cancel-share", "0.4", "--vocab-size", "500", "--json", str(saved))
    done = load(server, "--requests", "12", *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "first token p50, p99, ms" in done.stdout
    requests = json.loads(saved.read_text())["requests"]
    assert len(requests) == 12 and any(r["new_tokens"] < 32 for r in requests) and not any(r["error"] for r in requests)


def test_a_run_whose_every_request_is_refused_is_an_error(server: LiveServer) -> None:
    done = load(server, "--requests", "3", "--rate", "0", "--vocab-size", "2000000000")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "INVALID_ARG 3" in done.stdout and "every request failed" in done.stderr


def test_an_answer_in_one_response_shows_no_first_token(server: LiveServer) -> None:
    done = load(server, "--requests", "3", "--rate", "0", "--vocab-size", "500", "--whole-share", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {cells[0]: cells[1] for line in done.stdout.splitlines() if len(cells := line.strip("│ ").split(" │ ")) == 2}
    figures = {name.strip(): figure.strip() for name, figure in rows.items()}
    assert figures["first token p50, p99, ms (streamed requests)"] == "-"
    assert figures["requests: complete, cancelled, failed"] == "3, 0, 0"


def test_a_file_that_cannot_be_written_is_told_before_the_load(tmp_path: Path) -> None:
    done = load(None, "--json", str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"load: --json is {tmp_path}: Is a directory; give a file that can be written\n"


def load(server: LiveServer | None, *arguments: str) -> subprocess.CompletedProcess[str]:
    place = [] if server is None else ["--url", server.grpc_url]
    command = [sys.executable, "-m", "benchmarks.load", *place, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def test_cpu_time_is_told_apart_by_process_and_thread(server: LiveServer) -> None:
    root = server.process.pid
    before = look(root)
    generate(Target(server.grpc_url), workload(8, gap=0.0, new=60), "triton", "llama-demo", processes=1)
    spent = look(root).since(before)
    assert {"front", "engine", "tritonserver"} <= spent.by_kind().keys()
    assert {"main", "sender", "engine-client"} <= spent.by_thread("front").keys()
    assert {"main", "engine-io"} <= spent.by_thread("engine").keys()
    assert spent.by_kind()["engine"] > 0 and all(seconds >= 0 for seconds in spent.threads.values())
    assert sum(spent.by_thread("front").values()) == pytest.approx(spent.by_kind()["front"])


def test_the_profile_varies_one_number_at_a_time() -> None:
    assert settings_of((1, 2, 4, 8), (1, 2, 4)) == [(1, 2), (2, 2), (4, 2), (8, 2), (4, 1), (4, 4)]
    assert settings_of((1,), ()) == [(1, 2)]


@pytest.mark.slow
def test_tritons_own_ways_answer_every_request_at_the_end_of_its_batch() -> None:
    asked = workload(6, gap=0.0, new=10)
    with open_layer("triton-dynamic", "llama-demo", "auto", print, window_ms=300.0, batch_size=6) as layer:
        run = layer.run(asked)
    assert [(r.new_tokens, r.error) for r in run.requests] == [(10, "")] * 6
    assert (run.way, run.layer, run.num_responses) == ("dynamic", "triton-dynamic", 6)
    with open_layer("triton-instances", "llama-demo", "auto", print, instances=2) as layer:
        run = layer.run(asked)
    assert [(r.new_tokens, r.error) for r in run.requests] == [(10, "")] * 6
    assert run.settings == {"instances": 2}


def test_a_plain_models_configuration() -> None:
    text = plain_config(1, 32, 0.5)
    assert "max_batch_size: 32" in text and "max_queue_delay_microseconds: 500 " in text
    assert "dynamic_batching" not in plain_config(8, 1, None) and "count: 8" in plain_config(8, 1, None)
