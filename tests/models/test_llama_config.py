"""config.json: what transformers writes is read as transformers reads it; what we do not compute is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hf_models import BASE, LLAMA3, SHAPES, make
from published_configs import LLAMA_31, QWEN_25, SMOLLM2
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from flover_backend.errors import ConfigError
from flover_backend.models.config import Llama3Rope, LlamaConfig
from flover_backend.models.load import ARCHITECTURES, read_model_config
from flover_backend.models.neutral import NEUTRAL
from flover_backend.models.rope import inverse_frequencies

PLAIN = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"} | BASE


def _read(path: Path, keys: dict[str, Any], generation: dict[str, Any] | None = None) -> LlamaConfig:
    (path / "config.json").write_text(json.dumps({k: v for k, v in keys.items() if v != "absent"}))
    if generation is not None:
        (path / "generation_config.json").write_text(json.dumps(generation))
    config = read_model_config(path)
    assert isinstance(config, LlamaConfig)
    return config


@pytest.mark.parametrize("name", SHAPES)
def test_reads_what_transformers_writes(name: str, tmp_path: Path) -> None:
    written = make(SHAPES[name]).config
    written.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(_architecture(tmp_path, SHAPES[name].family)))
    read = read_model_config(tmp_path)
    assert isinstance(read, LlamaConfig)
    for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_key_value_heads"):
        assert getattr(read, key) == getattr(written, key)
    assert read.head_dim == (getattr(written, "head_dim", None) or 16)
    assert read.rope_theta == written.rope_parameters["rope_theta"]
    assert read.tie_word_embeddings == written.tie_word_embeddings


def _architecture(path: Path, family: str) -> dict[str, Any]:
    return json.loads((path / "config.json").read_text()) | {"architectures": [f"{family}ForCausalLM"]}


@pytest.mark.parametrize("family", ["Llama", "Mistral", "Qwen2", "Qwen3"])
def test_absent_keys_take_transformers_defaults(family: str, tmp_path: Path) -> None:
    needed = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "max_position_embeddings")
    sizes = {key: PLAIN[key] for key in needed} | {"num_attention_heads": 32, "hidden_size": 1024}
    read = _read(tmp_path, {"architectures": [f"{family}ForCausalLM"]} | sizes)
    default = getattr(transformers, f"{family}Config")(**sizes)
    assert read.num_key_value_heads == default.num_key_value_heads
    assert read.head_dim == (getattr(default, "head_dim", None) or 32)
    assert read.rms_norm_eps == default.rms_norm_eps
    assert read.rope_theta == default.rope_parameters["rope_theta"]
    assert (read.tie_word_embeddings, read.mlp_bias, read.o_bias) == (False, False, False)
    assert read.qkv_bias == (family == "Qwen2")


def test_rope_of_transformers_4(tmp_path: Path) -> None:
    scaling = {k: v for k, v in LLAMA3.items() if k != "rope_theta"}
    read = _read(tmp_path, PLAIN | {"rope_theta": 500000.0, "rope_scaling": scaling})
    assert (read.rope_theta, read.rope_llama3) == (500_000.0, Llama3Rope(8.0, 1.0, 4.0, 64))
    assert read == _read(tmp_path, PLAIN | {"rope_parameters": LLAMA3})
    old = _read(tmp_path, PLAIN | {"rope_theta": 1e6, "rope_scaling": {"type": "default"}})
    assert (old.rope_theta, old.rope_llama3) == (1e6, None)


def test_llama3_frequencies_equal_transformers(tmp_path: Path) -> None:
    reference = transformers.LlamaConfig(**BASE, head_dim=128, rope_parameters=dict(LLAMA3))
    read = _read(tmp_path, PLAIN | {"head_dim": 128, "rope_parameters": LLAMA3})
    expected, _ = ROPE_INIT_FUNCTIONS["llama3"](reference)
    torch.testing.assert_close(inverse_frequencies(read), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("config", "generation", "expected"),
    [
        (2, None, (2,)),
        ([2, 7], None, (2, 7)),
        (2, {"eos_token_id": [7, 2]}, (2, 7)),
        (None, {"eos_token_id": 9}, (9,)),
        (None, {}, ()),
    ],
)
def test_eos_ids(config: Any, generation: Any, expected: tuple[int, ...], tmp_path: Path) -> None:
    assert _read(tmp_path, PLAIN | {"eos_token_id": config}, generation).eos_token_ids == expected


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_dtype_under_both_names(key: str, tmp_path: Path) -> None:
    assert _read(tmp_path, PLAIN | {key: "bfloat16"}).dtype == "bfloat16"
    assert _read(tmp_path, PLAIN).dtype is None


def test_metadata_is_accepted(tmp_path: Path) -> None:
    metadata = {
        "use_cache": True,
        "initializer_range": 0.02,
        "transformers_version": "4.46.0",
        "attention_dropout": 0.1,
        "pad_token_id": 0,
        "_name_or_path": "somebody/something",
        "is_llama_config": True,
        "unsloth_version": "2024.9",
        "task_specific_params": None,
        "id2label": {"0": "LABEL_0"},
        "pretraining_tp": 1,
        "rope_scaling": None,
        "quantization_config": None,
        "sliding_window": None,
        "layer_types": ["full_attention"] * 3,
    }
    assert _read(tmp_path, PLAIN | metadata) == _read(tmp_path, PLAIN)


WRONG = [
    ({"hidden_act": "gelu"}, "hidden_act = 'gelu'.*'silu'"),
    ({"pretraining_tp": 2}, "pretraining_tp = 2.*1"),
    ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config.*gptq.*null"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5.*1"),
    ({"logit_scale": 0.0625}, "logit_scale = 0.0625.*1"),
    ({"attention_multiplier": 0.01}, "attention_multiplier = 0.01"),
    ({"sliding_window": 256}, "sliding_window = 256.*max_position_embeddings"),
    ({"sliding_window": 256, "use_sliding_window": True}, "sliding_window = 256"),
    ({"layer_types": ["full_attention", "linear_attention"]}, "layer_types"),
    ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling.rope_type = 'linear'.*default, llama3"),
    ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "rope_parameters.rope_type = 'yarn'"),
    ({"rope_parameters": {"rope_type": "default", "factor": 4.0}}, "rope_parameters.factor = 4.0.*1"),
    ({"rope_parameters": {"rope_type": "default", "mrope_section": [8]}}, "rope_parameters.mrope_section"),
    ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "rope_parameters.full_attention"),
    ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor = 0.5"),
    ({"rope_parameters": LLAMA3 | {"factor": None}}, "rope_parameters.factor = None.*finite number greater than 0"),
    ({"rope_parameters": LLAMA3 | {"high_freq_factor": 1.0}}, "high_freq_factor = 1.0.*low_freq_factor"),
    ({"rope_theta": -1}, "rope_theta = -1"),
    ({"rope_theta": float("inf")}, "rope_theta = inf"),
    ({"rope_parameters": {"rope_theta": 10**400}}, "rope_theta = 1000"),
    ({"rms_norm_eps": float("nan")}, "rms_norm_eps = nan"),
    ({"max_position_embeddings": 2**63}, "max_position_embeddings"),
    ({"hidden_size": "64"}, r"Expected `int`, got `str` - at `\$.hidden_size`"),
    ({"hidden_size": "absent"}, "hidden_size"),
    ({"num_hidden_layers": 0}, "num_hidden_layers = 0"),
    ({"num_key_value_heads": 3}, "num_key_value_heads = 3.*num_attention_heads = 4"),
    ({"head_dim": 15}, "head_dim = 15.*even"),
    ({"eos_token_id": 307}, r"eos_token_id = 307.*0 \.\. 306"),
    ({"eos_token_id": "</s>"}, "eos_token_id"),
    ({"eos_token_id": list(range(65))}, "eos_token_id: 65 ids .* at most 64"),
    ({"dtype": "float8_e4m3fn"}, "dtype = 'float8_e4m3fn'.*float32, float16, bfloat16"),
    ({"architectures": ["GemmaForCausalLM"]}, "architectures.*GemmaForCausalLM.*LlamaForCausalLM.*Qwen3ForCausalLM"),
    ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification.*supported"),
    ({"architectures": "absent"}, "architectures = None"),
    ({"architectures": ["MistralForCausalLM"], "attention_bias": True}, "attention_bias = true.*false"),
    ({"architectures": ["Qwen2ForCausalLM"], "mlp_bias": True}, "mlp_bias = true.*Qwen2ForCausalLM"),
]


@pytest.mark.parametrize(("keys", "message"), WRONG, ids=[str(keys)[:60] for keys, _ in WRONG])
def test_refused_by_name(keys: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        _read(tmp_path, PLAIN | keys)
    assert str(tmp_path / "config.json") in str(caught.value)


@pytest.mark.parametrize("key", NEUTRAL)
def test_every_listed_key_has_neutral_values_and_is_refused_otherwise(key: str, tmp_path: Path) -> None:
    plain = _read(tmp_path, PLAIN)
    for value in (None, *NEUTRAL[key]):
        assert _read(tmp_path, PLAIN | {key: value}) == plain
    with pytest.raises(ConfigError, match=f"{key} = 'something else' changes the mathematics"):
        _read(tmp_path, PLAIN | {key: "something else"})


def test_true_is_not_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="logit_scale = True"):
        _read(tmp_path, PLAIN | {"logit_scale": True})


@pytest.mark.parametrize(
    ("architecture", "keys", "accepted"),
    [
        ("Mistral", {"sliding_window": 512}, True),
        ("Mistral", {"sliding_window": 511}, False),
        ("Mistral", {"max_position_embeddings": 4096}, True),
        ("Mistral", {"max_position_embeddings": 8192}, False),  # absent: transformers takes 4096
        ("Qwen2", {"sliding_window": 128, "use_sliding_window": False}, True),
        ("Qwen2", {"sliding_window": 128}, True),  # absent: transformers takes false
        ("Qwen2", {"sliding_window": 128, "use_sliding_window": True}, False),
        ("Qwen3", {"sliding_window": 512, "use_sliding_window": True}, True),
        ("Qwen3", {"sliding_window": 64, "use_sliding_window": True, "layer_types": ["sliding_attention"] * 3}, False),
    ],
)
def test_sliding_window_in_use(architecture: str, keys: dict[str, Any], accepted: bool, tmp_path: Path) -> None:
    config = PLAIN | {"architectures": [f"{architecture}ForCausalLM"]} | keys
    if accepted:
        assert _read(tmp_path, config).architecture == f"{architecture}ForCausalLM"
        return
    with pytest.raises(ConfigError, match="sliding_window"):
        _read(tmp_path, config)


def test_supported_architectures() -> None:
    assert list(ARCHITECTURES) == [f"{family}ForCausalLM" for family in ("Llama", "Mistral", "Qwen2", "Qwen3", "GPTJ")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON"),
        (b'{"hidden_size": 64', "not JSON"),
        (b"GGUF\x03\x00\x00\xff", "not JSON"),
        (b"[1, 2]", "expected a JSON object, got list"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_config_json_of_the_wrong_kind(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_model_config(tmp_path)


def test_missing_directory_and_missing_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere is not there"):
        read_model_config(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"config.json is missing"):
        read_model_config(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="expected a Hugging Face directory"):
        read_model_config(tmp_path / "file")


@pytest.mark.parametrize(
    ("published", "head_dim", "rope_theta", "qkv_bias"),
    [(LLAMA_31, 128, 500_000.0, False), (QWEN_25, 64, 1_000_000.0, True), (SMOLLM2, 64, 100_000.0, False)],
    ids=["Llama-3.1-8B-Instruct", "Qwen2.5-0.5B-Instruct", "SmolLM2-135M-Instruct"],
)
def test_published_configurations(
    published: dict[str, Any], head_dim: int, rope_theta: float, qkv_bias: bool, tmp_path: Path
) -> None:
    read = _read(tmp_path, published)
    assert (read.head_dim, read.rope_theta, read.qkv_bias, read.o_bias) == (head_dim, rope_theta, qkv_bias, False)
    assert (read.rope_llama3 is not None) == (published is LLAMA_31)
    assert read.dtype == "bfloat16" and len(read.eos_token_ids) == (3 if published is LLAMA_31 else 1)
