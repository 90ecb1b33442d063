"""genai-perf 0.0.16 on a live server, over gRPC as with Triton's vLLM backend and over HTTP on /generate_stream.

Its figures are compared with what perf_analyzer's own export holds, read by this repository's reader.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from live_server import ROOT, LiveServer

from benchmarks.pa.export import read_export
from benchmarks.pa.figures import Figures, figures
from flover_backend.bundled import path_of

pytestmark = pytest.mark.slow

REQUESTS, CONCURRENCY, PROMPT, OUTPUT = 18, 3, 20, 16
VENV = ROOT / ".venv-genai-perf"


@pytest.fixture(scope="module")
def genai_perf() -> Path:
    """Its environment, made when it is missing: what `make genai-perf` does."""
    script = [sys.executable, str(ROOT / "scripts" / "genai_perf.py")]
    made = subprocess.run(script, capture_output=True, text=True, check=False, timeout=900)
    assert made.returncode == 0, made.stdout + made.stderr
    return VENV / "bin"


def profile(bin_folder: Path, folder: Path, *arguments: str) -> tuple[dict[str, Any], dict[str, str], Path]:
    """(its JSON, metric -> mean of its CSV, perf_analyzer's export)."""
    done = subprocess.run(
        [
            *(str(bin_folder / "genai-perf"), "profile", "-m", "flover", "--streaming"),
            *("--synthetic-input-tokens-mean", str(PROMPT), "--synthetic-input-tokens-stddev", "0"),
            *("--output-tokens-mean", str(OUTPUT), "--output-tokens-stddev", "0"),
            *("--request-count", str(REQUESTS), "--concurrency", str(CONCURRENCY), "--random-seed", "1"),
            *("--tokenizer", str(path_of("llama-demo")), "--artifact-dir", str(folder), *arguments),
        ],
        cwd=folder,
        env=os.environ | {"PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    (export,) = folder.glob("*/profile_export.json")
    with export.with_name("profile_export_genai_perf.csv").open(newline="") as file:
        means = {row[0]: row[1] for row in csv.reader(file) if len(row) > 1}
    return json.loads(export.with_name("profile_export_genai_perf.json").read_text()), means, export


def check_times(document: dict[str, Any], means: dict[str, str], ours: Figures) -> None:
    assert document["request_count"]["avg"] == ours.num_requests == REQUESTS
    assert document["input_sequence_length"]["avg"] == PROMPT
    assert ours.first_token is not None and ours.latency is not None
    assert document["time_to_first_token"]["avg"] == pytest.approx(ours.first_token.mean * 1e3)
    assert document["time_to_first_token"]["max"] == pytest.approx(ours.first_token.most * 1e3)
    assert document["request_throughput"]["avg"] == pytest.approx(ours.requests_per_s)
    for name, row in {
        "time_to_first_token": "Time To First Token (ms)",
        "request_latency": "Request Latency (ms)",
        "output_sequence_length": "Output Sequence Length (tokens)",
        "request_throughput": "Request Throughput (per sec)",
    }.items():
        assert float(means[row].replace(",", "")) == pytest.approx(document[name]["avg"], abs=0.006)


def test_grpc_as_with_the_vllm_backend(genai_perf: Path, server: LiveServer, tmp_path: Path) -> None:
    document, means, export = profile(
        genai_perf, tmp_path, "--backend", "vllm", "-u", server.grpc_url, "--output-tokens-mean-deterministic"
    )
    (experiment,) = read_export(export)
    ours = figures(experiment.requests)
    check_times(document, means, ours)
    assert ours.latency is not None and ours.most_in_flight == CONCURRENCY
    assert document["request_latency"]["avg"] == pytest.approx(ours.latency.mean * 1e3)
    assert ours.num_tokens == REQUESTS * OUTPUT
    # It tokenizes the answer's text again, which can take a token more or fewer than the model did.
    length = document["output_sequence_length"]["avg"]
    assert length == pytest.approx(OUTPUT, abs=2)
    assert document["output_token_throughput"]["avg"] == pytest.approx(length * ours.requests_per_s)


def test_generate_stream(genai_perf: Path, server: LiveServer, tmp_path: Path) -> None:
    document, means, export = profile(
        genai_perf,
        tmp_path,
        *("--endpoint-type", "generate", "--endpoint", "v2/models/flover/generate_stream"),
        *("-u", f"127.0.0.1:{server.http_port}", "--extra-inputs", "ignore_eos:true"),
    )
    requests = json.loads(export.read_text())["experiments"][0]["requests"]
    sent = [json.loads(request["request_inputs"]["payload"]) for request in requests]
    assert all(one["max_tokens"] == OUTPUT and one["stream"] is True for one in sent)
    assert [_num_tokens(request) for request in requests] == [OUTPUT] * REQUESTS
    (experiment,) = read_export(export)
    ours = figures(experiment.requests)
    check_times(document, means, ours)
    assert ours.num_tokens == REQUESTS * OUTPUT
    assert document["output_sequence_length"]["avg"] == pytest.approx(OUTPUT, abs=2)


def _num_tokens(request: dict[str, Any]) -> int:
    """Of the server-sent events that perf_analyzer stored; several may share an entry."""
    events = "".join(outputs["response"] for outputs in request["response_outputs"]).split("data: ")
    answers = [json.loads(event) for event in events if event.strip()]
    return sum(len(ids) if isinstance(ids := answer["output_ids"], list) else 1 for answer in answers)
