"""GPT-J: config.json is read as transformers reads it, foreign mathematics and wrong tensors are refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hf_models import GPTJ_BASE, GPTJ_SHAPES, make, save
from paged import Paged
from safetensors.torch import load_file, save_file

from flover_backend.errors import ConfigError
from flover_backend.models.batch import Model
from flover_backend.models.gptj_config import GptjConfig
from flover_backend.models.load import load_model, read_model_config, resolve_dtype, weight_bytes

Tensors = dict[str, torch.Tensor]
PLAIN = {"architectures": ["GPTJForCausalLM"], "model_type": "gptj"} | GPTJ_BASE
PUBLISHED = {
    "activation_function": "gelu_new", "architectures": ["GPTJForCausalLM"], "attn_pdrop": 0.0, "bos_token_id": 50256,
    "embd_pdrop": 0.0, "eos_token_id": 50256, "gradient_checkpointing": False, "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05, "model_type": "gptj", "n_embd": 4096, "n_head": 16, "n_inner": None, "n_layer": 28,
    "n_positions": 2048, "resid_pdrop": 0.0, "rotary": True, "rotary_dim": 64, "scale_attn_weights": True,
    "summary_activation": None, "summary_first_dropout": 0.1, "summary_proj_to_labels": True,
    "summary_type": "cls_index", "summary_use_proj": True, "tie_word_embeddings": False,
    "tokenizer_class": "GPT2Tokenizer", "use_cache": True, "vocab_size": 50400,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50, "temperature": 1.0}},
}  # fmt: skip
FC_OUT = "transformer.h.1.mlp.fc_out.weight"


def _read(path: Path, keys: dict[str, Any]) -> GptjConfig:
    (path / "config.json").write_text(json.dumps({k: v for k, v in keys.items() if v != "absent"}))
    config = read_model_config(path)
    assert isinstance(config, GptjConfig)
    return config


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return save(make(GPTJ_SHAPES["gptj"]), tmp_path / "model")


def _load(path: Path, load_format: str = "auto") -> Model:
    return load_model(path, "float32", "cpu", lambda stage, fraction: None, load_format)


def _edit(path: Path, edit: Callable[[Tensors], object]) -> None:
    tensors = load_file(path / "model.safetensors")
    edit(tensors)
    save_file(tensors, path / "model.safetensors")


def _fails(path: Path, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        _load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", GPTJ_SHAPES)
def test_reads_what_transformers_writes(name: str, tmp_path: Path) -> None:
    written = make(GPTJ_SHAPES[name]).config
    written.save_pretrained(tmp_path)
    read = _read(tmp_path, json.loads((tmp_path / "config.json").read_text()) | {"architectures": ["GPTJForCausalLM"]})
    assert (read.hidden_size, read.num_hidden_layers, read.rotary_dim) == (64, 3, written.rotary_dim)
    assert (read.num_attention_heads, read.num_key_value_heads) == (written.n_head, written.n_head)
    assert (read.intermediate_size, read.head_dim) == (written.n_inner or 256, 64 // written.n_head)
    assert read.layer_norm_eps == written.layer_norm_epsilon
    assert read.tie_word_embeddings == written.tie_word_embeddings


def test_the_published_6b(tmp_path: Path) -> None:
    read = _read(tmp_path, PUBLISHED)
    assert (read.head_dim, read.rotary_dim, read.intermediate_size) == (256, 64, 16384)
    assert (read.eos_token_ids, read.bos_token_id, read.dtype) == ((50256,), 50256, None)
    assert weight_bytes(tmp_path, "float16", "cpu") == 2 * 6_050_882_784


def test_absent_keys_take_transformers_defaults(tmp_path: Path) -> None:
    sizes = {"vocab_size": 50400, "n_embd": 256, "n_head": 2, "n_layer": 1, "n_positions": 64}
    read = _read(tmp_path, {"architectures": ["GPTJForCausalLM"]} | sizes)
    default = transformers.GPTJConfig(**sizes)
    assert (read.rotary_dim, read.layer_norm_eps) == (default.rotary_dim, default.layer_norm_epsilon)
    assert (read.bos_token_id, read.eos_token_ids) == (default.bos_token_id, (default.eos_token_id,))
    assert read.intermediate_size == 1024 and not read.tie_word_embeddings


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("activation_function", "gelu"),
        ("activation_function", "silu"),
        ("rotary_dim", 0),
        ("rotary_dim", 7),
        ("rotary_dim", 18),
        ("rotary_dim", None),
        ("n_head", 3),
        ("n_head", 0),
        ("n_head", 64),
        ("n_inner", -1),
        ("n_embd", "absent"),
        ("n_positions", "absent"),
        ("layer_norm_epsilon", 0),
        ("eos_token_id", 307),
        ("hidden_size", 65),
        ("num_key_value_heads", 2),
        ("max_position_embeddings", 1024),
        ("rope_theta", 500000.0),
        ("rope_scaling", {"rope_type": "linear", "factor": 2.0}),
        ("use_parallel_residual", False),
        ("rotary", False),
        ("scale_attn_weights", False),
        ("sliding_window", 128),
        ("num_experts", 8),
        ("qk_layernorm", True),
        ("quantization_config", {"bits": 4}),
        ("dtype", "int8"),
    ],
)
def test_refused_by_name(key: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{key}|n_embd / n_head") as caught:
        _read(tmp_path, PLAIN | {key: value})
    assert str(tmp_path) in str(caught.value)


def test_names_of_other_architectures_may_say_the_same(tmp_path: Path) -> None:
    assert _read(tmp_path, PLAIN | {"hidden_size": 64, "num_hidden_layers": 3}) == _read(tmp_path, PLAIN)


@pytest.mark.parametrize(
    "name",
    [FC_OUT, "transformer.wte.weight", "transformer.ln_f.bias", "lm_head.bias", "transformer.h.0.attn.k_proj.weight"],
)
def test_missing_tensor(directory: Path, name: str) -> None:
    _edit(directory, lambda tensors: tensors.pop(name))
    _fails(directory, f"tensor {name} is missing; expected shape")


def test_misshapen_tensor(directory: Path) -> None:
    _edit(directory, lambda tensors: tensors.update({FC_OUT: torch.zeros(64, 255)}))
    _fails(directory, rf"tensor {FC_OUT} has shape \[64, 255\]; config.json asks for \[64, 256\]")


@pytest.mark.parametrize("name", ["transformer.h.0.attn.q_proj.bias", "transformer.h.3.ln_1.weight"])
def test_surplus_tensor(directory: Path, name: str) -> None:
    _edit(directory, lambda tensors: tensors.update({name: torch.zeros(64)}))
    _fails(directory, f"unknown tensors {name}")


def test_masks_of_old_checkpoints_stay_behind(directory: Path) -> None:
    work = [(0, [3, 5, 9, 4])]
    expected = Paged(_load(directory), 1, 16).run(work)[0]
    mask = torch.ones(1, 1, 8, 8, dtype=torch.bool).tril()
    for i in range(3):
        leftovers = {f"transformer.h.{i}.attn.bias": mask, f"transformer.h.{i}.attn.masked_bias": torch.tensor(-1e9)}
        _edit(directory, lambda tensors, new=leftovers: tensors.update(new))
    assert torch.equal(Paged(_load(directory), 1, 16).run(work)[0], expected)


@pytest.mark.parametrize("name", GPTJ_SHAPES)
def test_model_describes_itself(name: str, tmp_path: Path) -> None:
    reference = make(GPTJ_SHAPES[name], torch.float16)
    path = save(reference, tmp_path)
    model = load_model(path, "float16", "cpu", lambda stage, fraction: None)
    assert model.num_parameters == reference.num_parameters()
    assert model.weight_bytes == 2 * model.num_parameters == weight_bytes(path, "float16", "cpu")
    assert (model.max_model_len, model.eos_token_ids) == (512, (2,))
    assert resolve_dtype("auto", torch.device("cuda"), path) == torch.float16


def test_random_weights_are_the_same_each_time_finite_and_lively(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    work = [(0, list(range(5, 40)))]
    logits, again = (Paged(_load(directory, "random"), 1, 64).run(work)[0] for _ in range(2))
    assert torch.equal(logits, again)
    assert logits.isfinite().all() and 0.1 < logits.std() < 10
