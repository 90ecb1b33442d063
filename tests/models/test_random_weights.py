"""load_format random: a model from config.json alone, the same each time, finite and lively; its bytes known before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hf_models import GPTJ_SHAPES, SHAPES, make, save
from paged import Paged

from flover_backend.errors import ConfigError
from flover_backend.models.batch import Model
from flover_backend.models.load import load_model, resolve_dtype, weight_bytes

DEEP_LLAMA = {
    "architectures": ["LlamaForCausalLM"], "vocab_size": 101, "hidden_size": 256, "intermediate_size": 688,
    "num_hidden_layers": 40, "num_attention_heads": 4, "max_position_embeddings": 64, "dtype": "float16",
}  # fmt: skip
DEEP_GPTJ = {
    "architectures": ["GPTJForCausalLM"], "vocab_size": 101, "n_embd": 256, "n_layer": 40, "n_head": 4,
    "n_positions": 64, "eos_token_id": 2, "dtype": "float16",
}  # fmt: skip


@pytest.fixture(params=["llama-gqa", "llama-biases", "llama-mqa-tied", "qwen3", "gptj", "gptj-tied"])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = save(make((SHAPES | GPTJ_SHAPES)[request.param]), tmp_path / "model")
    (path / "model.safetensors").unlink()
    return path


def _load(path: Path, dtype: str = "float32") -> Model:
    return load_model(path, dtype, "cpu", lambda stage, fraction: None, "random")


def test_the_same_model_each_time_finite_and_lively(directory: Path) -> None:
    work = [(0, list(range(5, 40)))]
    logits, again = (Paged(_load(directory), 1, 64).run(work)[0] for _ in range(2))
    assert torch.equal(logits, again)
    assert logits.isfinite().all() and 0.1 < logits.std() < 10


@pytest.mark.parametrize("config", [DEEP_LLAMA, DEEP_GPTJ], ids=["llama", "gptj"])
def test_it_stays_finite_in_half_precision_over_many_layers(tmp_path: Path, config: dict[str, object]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    logits = Paged(_load(tmp_path, "float16"), 1, 64).run([(0, [3, 4, 5, 6])])[0]
    assert logits.isfinite().all() and 0.3 < logits.std() < 3


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_bytes_are_known_before(directory: Path, dtype: str) -> None:
    assert weight_bytes(directory, dtype, "cpu", "random") == _load(directory, dtype).weight_bytes


def test_progress_rises_to_one(directory: Path) -> None:
    seen: list[tuple[str, float]] = []
    load_model(directory, "float32", "cpu", lambda *news: seen.append(news), "random")
    fractions = [fraction for _, fraction in seen]
    assert fractions == sorted(fractions) and fractions[-1] == 1
    assert {stage for stage, _ in seen} == {"weights"}


def test_auto_dtype_needs_one_in_config_json(directory: Path) -> None:
    path = directory / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in config.items() if key not in ("dtype", "torch_dtype")}))
    with pytest.raises(ConfigError, match=r"config.json: dtype is missing, and with load_format random"):
        resolve_dtype("auto", torch.device("cuda"), directory, "random")
