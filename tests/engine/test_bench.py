"""The bench runs both comparisons on a tiny model and prints a table; its figures are not asserted."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_gptj
import tiny_llama

from flover_backend import bench
from flover_backend.bench import BenchOptions


@pytest.fixture(scope="module", params=["llama", "gptj"])
def model_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    write = {"llama": tiny_llama.write, "gptj": tiny_gptj.write}[request.param]
    return write(Path(tmp_path_factory.mktemp("tiny")), model_type=request.param, tie_word_embeddings=False)


def test_it_measures_both_comparisons_and_the_tokens_agree(model_dir):
    lines: list[str] = []
    options = BenchOptions(model_dir, num_requests=3, prompt_tokens=5, new_tokens=7, rounds=2, threads=1)
    report = bench.bench(options, lines.append)
    for values in (report.fused, report.one_by_one, report.alone, report.transformers):
        assert len(values) == 2 and all(value > 0 for value in values)
    assert report.fused_equal == 3
    assert report.transformers_equal == 7
    assert len(lines) == 2 + 5
    assert lines[0].startswith("round 1 of 2, tokens/s: 3 fused")
    assert "1 threads" in lines[2] and "5 + 7 tokens" in lines[2]
    assert "3 requests fused / one after another" in lines[4] and "4.0x" in lines[4]
    assert "1 request / transformers generate" in lines[5] and "1.0x" in lines[5]


def test_without_transformers_the_other_comparison_is_still_measured(model_dir, monkeypatch):
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: None)
    lines: list[str] = []
    report = bench.bench(BenchOptions(model_dir, 2, 4, 3, rounds=1, threads=1), lines.append)
    assert report.transformers == []
    assert "not measured" in lines[-2] and "transformers" not in lines[-1]
