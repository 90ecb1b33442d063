"""Loading: keys resolved from the model and the memory, refusals with arithmetic, the log, a warm engine."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import tiny_gptj
import tiny_llama
import torch
from lone import Collector, make_request

from flover_backend.config import ModelJson
from flover_backend.engine import load as loading
from flover_backend.engine.load import load_engine
from flover_backend.engine.reserve import Reserve
from flover_backend.errors import ConfigError
from flover_backend.request import SamplingParams


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama.write(Path(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module", params=[(tiny_llama, 2 * 8), (tiny_gptj, 2 * 16)], ids=["llama", "gptj"])
def any_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A directory, and the bytes of a token in its KV buffer: 2 layers of keys and values in float32."""
    tiny, items = request.param
    return tiny.write(Path(tmp_path_factory.mktemp("any"))), 2 * 2 * items * 4


def load(model_dir: Path, **keys: object):
    return load_engine(ModelJson(device="cpu", **keys), model_dir, lambda stage, fraction: None)


def refusal(model_dir: Path, **keys: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load(model_dir, **keys)
    return str(caught.value)


def test_with_only_a_model_everything_is_resolved(any_model):
    model_dir, _ = any_model
    engine, info = load(model_dir)
    assert (info.max_rows, info.max_model_len, info.block_size) == (32, 256, 16)
    assert (info.max_tokens_limit, info.max_tokens_default, info.max_prompt_bytes) == (256, 16, 4096)
    assert (info.dtype, info.device, info.reorder) == ("float32", "cpu", "rows")
    assert (info.vocab_size, info.eos_token_ids) == (tiny_llama.VOCAB, [tiny_llama.EOS])
    assert info.num_blocks == 32 * 256 // 16, "no more than 32 rows can use"
    assert (info.front_number, info.pid, info.model_dir) == (0, 0, str(model_dir))
    assert not engine.has_work and engine.gauges.used_blocks == 0
    engine.check_integrity()


def test_a_loaded_engine_answers(any_model):
    engine, _ = load(any_model[0], max_rows=2)
    collector = Collector()
    request = make_request(1, [3, 4, 5], SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True))
    collector.expect(request)
    engine.add(request)
    while engine.has_work:
        collector.take(engine.step())
    assert len(collector.sequences[1][0].token_ids) == 8


def test_progress_rises_to_ready(model_dir):
    told: list[tuple[str, float]] = []
    load_engine(ModelJson(device="cpu"), model_dir, lambda *news: told.append(news))
    assert told[-1] == ("ready", 1.0)
    assert all(0 <= fraction <= 1 for _, fraction in told)


@pytest.mark.parametrize(
    ("keys", "num_blocks"),
    [({"kv_cache_tokens": 1000}, 62), ({"kv_cache_bytes": 1 << 20, "block_size": 32}, (1 << 20) // (256 * 32) - 1)],
)
def test_the_kv_buffer_has_the_size_asked_for(model_dir, keys, num_blocks):
    _, info = load(model_dir, **keys)
    assert info.num_blocks == num_blocks


def test_too_little_kv_for_one_request_is_refused_with_the_arithmetic(model_dir):
    text = refusal(model_dir, kv_cache_tokens=100)
    for part in ("kv_cache_tokens 100", "6 blocks of 16 tokens", "4096 bytes each", "max_model_len 256", "16 blocks"):
        assert part in text


def test_more_kv_than_memory_is_refused_with_the_arithmetic(model_dir):
    text = refusal(model_dir, kv_cache_bytes=1 << 50)
    assert "kv_cache_bytes 1125899906842624" in text and "are free" in text


def test_no_room_for_graphs_is_refused_with_the_arithmetic(model_dir, monkeypatch):
    monkeypatch.setattr(loading, "reserve_for", lambda model, rows, tokens: Reserve(3 << 30, 1 << 50))
    text = refusal(model_dir)
    for part in ("0 are free", "activations 3.00 GiB", "graphs 1048576.00 GiB", "free after the weights"):
        assert part in text


def test_graphs_that_run_out_of_memory_are_refused_with_the_arithmetic(model_dir, monkeypatch):
    def run_out(*arguments: object) -> None:
        raise torch.AcceleratorError("CUDA error: out of memory")

    monkeypatch.setattr(loading, "_warm_runner", run_out)
    text = refusal(model_dir)
    for part in ("while making the KV buffer and graphs", "weights 0.00 GiB", "activations", "graphs", "are free now"):
        assert part in text


@pytest.mark.parametrize(
    ("keys", "parts"),
    [
        ({"max_model_len": 257}, ("max_model_len is 257", "1 .. 256")),
        ({"max_tokens_limit": 500}, ("max_tokens_limit is 500", "1 .. 256")),
        ({"kv_cache_fraction": 0.5}, ("kv_cache_fraction is 0.5", "kv_cache_bytes")),
    ],
)
def test_keys_that_ask_too_much_are_named(model_dir, keys, parts):
    text = refusal(model_dir, **keys)
    assert all(part in text for part in parts), text


def test_more_ends_of_text_than_a_row_can_mask_are_refused(tmp_path):
    text = refusal(tiny_llama.write(tmp_path, eos_token_id=list(range(65))))
    assert "eos_token_id: 65 ids in config.json and generation_config.json together; allowed: at most 64" in text


def test_a_missing_directory_is_named(tmp_path):
    assert "nowhere" in refusal(tmp_path / "nowhere")


def test_configuration_and_memory_are_logged_once(any_model, caplog):
    model_dir, token_bytes = any_model
    with caplog.at_level(logging.INFO, logger=loading.__name__):
        load(model_dir, max_rows=4, kv_cache_tokens=512)
    lines = [record.getMessage() for record in caplog.records]
    (configuration,) = [json.loads(line.partition(": ")[2]) for line in lines if line.startswith("configuration")]
    assert configuration["max_rows"] == 4 and configuration["max_model_len"] == 256
    assert (configuration["kv_cache_tokens"], configuration["kv_cache_bytes"]) == (512, 33 * 16 * token_bytes)
    assert configuration["prefill_token_budget"]["0"] == 4096
    (memory,) = [line for line in lines if line.startswith("memory")]
    assert f"(32 + 1) blocks x 16 tokens x {token_bytes} bytes" in memory
    assert all(word in memory for word in ("weights", "activations", "KV", "free"))


def test_the_budget_can_be_set(model_dir):
    engine, _ = load(model_dir, prefill_token_budget=3)
    engine.add(make_request(1, [3] * 10, SamplingParams(max_tokens=1)))
    engine.step()
    assert engine.last_stats is not None and engine.last_stats.iteration.prefill_tokens == 3
