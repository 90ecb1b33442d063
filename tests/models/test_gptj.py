"""GPT-J: config.json is read as transformers reads it, foreign mathematics and wrong tensors are refused by name."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hf_models import GPTJ_BASE, GPTJ_SHAPES, Shape, make, save
from paged import Paged
from published_gptj import CONFIG as PUBLISHED
from published_gptj import write as write_published
from safetensors.torch import load_file, save_file

from flover_backend.errors import ConfigError
from flover_backend.models.batch import Model
from flover_backend.models.gptj_config import GptjConfig
from flover_backend.models.load import load_model, read_model_config, resolve_dtype, weight_bytes

Tensors = dict[str, torch.Tensor]
PLAIN = {"architectures": ["GPTJForCausalLM"], "model_type": "gptj"} | GPTJ_BASE
FC_OUT = "transformer.h.1.mlp.fc_out.weight"


def _read(path: Path, keys: dict[str, Any], generation: dict[str, Any] | None = None) -> GptjConfig:
    (path / "config.json").write_text(json.dumps({k: v for k, v in keys.items() if v != "absent"}))
    if generation is not None:
        (path / "generation_config.json").write_text(json.dumps(generation))
    config = read_model_config(path)
    assert isinstance(config, GptjConfig)
    return config


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return save(make(GPTJ_SHAPES["gptj"]), tmp_path / "model")


def _load(path: Path) -> Model:
    return load_model(path, "float32", "cpu", lambda stage, fraction: None)


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


def test_ends_of_text_come_from_both_files(tmp_path: Path) -> None:
    assert _read(tmp_path, PLAIN, {"eos_token_id": [5, 2]}).eos_token_ids == (2, 5)
    assert _read(tmp_path, PLAIN | {"eos_token_id": None}, {"eos_token_id": 7}).eos_token_ids == (7,)
    assert len(_read(tmp_path, PLAIN | {"eos_token_id": [0, 1]}, {"eos_token_id": list(range(64))}).eos_token_ids) == 64
    with pytest.raises(ConfigError, match="eos_token_id: 65 ids"):
        _read(tmp_path, PLAIN | {"eos_token_id": [64]}, {"eos_token_id": list(range(64))})


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
        ("eos_token_id", list(range(65))),
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_laid_out_as_the_published_checkpoint(directory: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    published = write_published(directory, tmp_path / "published", dtype, padded_vocab=320)
    assert len(list(published.glob("*.safetensors"))) > 2
    assert resolve_dtype("auto", torch.device("cuda"), published) == dtype
    model, work = _load(published), [(0, [3, 5, 9, 4])]
    assert (model.vocab_size, model.eos_token_ids, model.max_model_len) == (320, (2,), 512)
    logits, expected = Paged(model, 1, 16).run(work)[0], Paged(_load(directory), 1, 16).run(work)[0]
    assert (logits[:, 307:] < -5000).all()
    exact = dtype == torch.float32
    torch.testing.assert_close(logits[:, :307], expected, atol=1e-4 if exact else 0.5, rtol=0)


@pytest.mark.parametrize("masks", [False, True])
def test_names_without_their_prefix(directory: Path, masks: bool) -> None:
    """As of a model that was saved without its head."""
    work = [(0, [3, 5, 9, 4])]
    expected = Paged(_load(directory), 1, 16).run(work)[0]

    def rename(tensors: Tensors) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        if masks:
            tensors |= {f"h.{i}.attn.bias": torch.ones(1, 1, 8, 8, dtype=torch.bool).tril() for i in range(3)}
            tensors |= {f"h.{i}.attn.masked_bias": torch.tensor(-1e9) for i in range(3)}

    _edit(directory, rename)
    assert torch.equal(Paged(_load(directory), 1, 16).run(work)[0], expected)
    assert resolve_dtype("auto", torch.device("cuda"), directory) == torch.float32
    _edit(directory, lambda tensors: tensors.update({"h.3.ln_1.weight": torch.zeros(64)}))
    _fails(directory, r"unknown tensors h\.3\.ln_1\.weight")
    _edit(directory, lambda tensors: [tensors.pop(name) for name in ("h.3.ln_1.weight", "h.1.ln_1.weight")])
    _fails(directory, r"tensor h\.1\.ln_1\.weight is missing")


@pytest.mark.parametrize("name", ["transformer.wte.weight", "lm_head.weight"])
def test_a_name_with_and_without_its_prefix_is_not_both(directory: Path, name: str) -> None:
    other = name.removeprefix("transformer.") if name.startswith("transformer.") else f"transformer.{name}"
    _edit(directory, lambda tensors: tensors.update({other: tensors[name].clone()}))
    _fails(directory, f"unknown tensors {other}")


@pytest.mark.parametrize("seed", [*range(8), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(8, 60))])
def test_logits_of_any_shape_equal_transformers(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    heads, head_dim = draw.choice([1, 2, 3, 5]), 2 * draw.randint(1, 20)
    shape = Shape(
        "GPTJ",
        {
            "vocab_size": draw.choice([7, 50, 311]),
            "n_embd": heads * head_dim,
            "n_head": heads,
            "n_layer": draw.choice([1, 2]),
            "rotary_dim": 2 * draw.randint(1, head_dim // 2),
            "n_inner": draw.choice([None, 1, 33, 100]),
            "n_positions": draw.choice([40, 130]),
            "tie_word_embeddings": draw.random() < 0.3,
            "layer_norm_epsilon": draw.choice([1e-5, 1e-3]),
            "activation_function": draw.choice(["gelu_new", "gelu_pytorch_tanh"]),
        },
    )
    reference = make(shape, seed=seed)
    ids = [draw.randrange(reference.config.vocab_size) for _ in range(draw.randint(3, 38))]
    paged = Paged(_load(save(reference, tmp_path)), 1, 40, block_size=draw.choice([8, 16, 32]))
    first = draw.randint(1, len(ids) - 1)
    pieces = [ids[:first], *([token] for token in ids[first:])]
    got = torch.cat([paged.run([(0, piece)])[0] for piece in pieces])
    torch.testing.assert_close(got, reference(torch.tensor([ids])).logits[0], atol=2e-4, rtol=0)


@pytest.mark.parametrize("name", GPTJ_SHAPES)
def test_model_describes_itself(name: str, tmp_path: Path) -> None:
    reference = make(GPTJ_SHAPES[name], torch.float16)
    path = save(reference, tmp_path)
    model = load_model(path, "float16", "cpu", lambda stage, fraction: None)
    assert model.num_parameters == reference.num_parameters()
    assert model.weight_bytes == 2 * model.num_parameters == weight_bytes(path, "float16", "cpu")
    assert (model.max_model_len, model.eos_token_ids) == (512, (2,))
    assert resolve_dtype("auto", torch.device("cuda"), path) == torch.float16
