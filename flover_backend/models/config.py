"""config.json of LLaMA and its near relatives (Mistral, Qwen2, Qwen3) as one frozen `LlamaConfig`.

Absent keys take the values that transformers gives them. Keys that change the mathematics and that models/llama.py
does not compute must be neutral (models/neutral.py); any other unknown key is metadata and ignored. No torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from flover_backend.errors import ConfigError
from flover_backend.models.config_values import (
    MAX_HEAD_DIM,
    bos_token_id,
    check_eos_token_ids,
    dtype_name,
    eos_token_ids,
    positive,
    require_layers,
    require_positive,
)
from flover_backend.models.neutral import require_neutral


@dataclass(frozen=True, slots=True)
class Llama3Rope:
    """Parameters of the rope type `llama3`."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """What every architecture's configuration has."""

    architecture: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    """Of config.json, then further ones of generation_config.json."""
    dtype: str | None
    """float32, float16 or bfloat16 as config.json says; None when it does not say."""
    tie_word_embeddings: bool

    @property
    def activation_width(self) -> int:
        """Elements that a token takes at the widest moment of a layer."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaConfig(ModelConfig):
    """What models/llama.py computes. Every field is resolved; sizes are positive and fit each other."""

    intermediate_size: int
    rms_norm_eps: float
    rope_theta: float
    rope_llama3: Llama3Rope | None
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    qk_norm: bool

    @property
    def activation_width(self) -> int:
        """Residual and normed input, and the wider of queries, keys, values and what they give, or the gated halves."""
        queries, pairs = self.num_attention_heads * self.head_dim, 2 * self.num_key_value_heads * self.head_dim
        return 2 * self.hidden_size + max(2 * queries + pairs, 3 * self.intermediate_size)

    def __post_init__(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError(
                f"num_key_value_heads = {self.num_key_value_heads}; allowed: a divisor of num_attention_heads "
                f"= {self.num_attention_heads}"
            )
        if self.head_dim % 2 or self.head_dim > MAX_HEAD_DIM:
            raise ConfigError(f"head_dim = {self.head_dim}; allowed: an even number up to {MAX_HEAD_DIM}")
        check_eos_token_ids(self.eos_token_ids, self.vocab_size)


@dataclass(frozen=True, slots=True)
class _Dialect:
    """How an architecture departs from LLaMA, beside what its config.json says."""

    num_key_value_heads: int | None
    """When config.json names none; None: as many as query heads."""
    head_dim: int | None = None
    """When config.json names none; None: hidden_size / num_attention_heads."""
    qkv_bias: bool | None = False
    """None: as `attention_bias` says, which then holds for the output projection too."""
    mlp_bias: bool | None = False
    """None: as `mlp_bias` says."""
    qk_norm: bool = False
    window_keys: dict[str, Any] = field(default_factory=dict)
    """Keys about a sliding window that hold when config.json has none."""


_QWEN_WINDOW = {"use_sliding_window": False}
DIALECTS = {
    "LlamaForCausalLM": _Dialect(None, qkv_bias=None, mlp_bias=None),
    "MistralForCausalLM": _Dialect(8, window_keys={"sliding_window": 4096}),
    "Qwen2ForCausalLM": _Dialect(32, qkv_bias=True, window_keys=_QWEN_WINDOW),
    "Qwen3ForCausalLM": _Dialect(32, head_dim=128, qkv_bias=None, qk_norm=True, window_keys=_QWEN_WINDOW),
}
"""Architecture -> dialect."""


class _Json(msgspec.Struct, frozen=True):
    """The keys of config.json that are read, with their types and transformers' defaults."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    rms_norm_eps: float = 1e-6
    rope_theta: float | None = None
    rope_parameters: dict[str, Any] | None = None
    rope_scaling: dict[str, Any] | None = None
    original_max_position_embeddings: int | None = None
    attention_bias: bool | None = None
    mlp_bias: bool | None = None
    tie_word_embeddings: bool = False
    bos_token_id: int | list[int] | None = None
    eos_token_id: int | list[int] | None = None
    dtype: str | None = None
    torch_dtype: str | None = None


_SIZES = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "max_position_embeddings", "num_key_value_heads", "head_dim",
)  # fmt: skip


def parse_llama(architecture: str, config: dict[str, Any], generation: dict[str, Any]) -> LlamaConfig:
    """`LlamaConfig` from the contents of config.json and generation_config.json ({} where there is none).

    Raises `ConfigError` naming the key, its value and what is allowed.
    """
    dialect = DIALECTS[architecture]
    require_neutral(dialect.window_keys | config)
    try:
        json = msgspec.convert(config, _Json)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{error}") from None
    require_positive(json, *_SIZES, "rms_norm_eps")
    require_layers("num_hidden_layers", json.num_hidden_layers)
    rope_theta, llama3 = _rope(json)
    return LlamaConfig(
        architecture=architecture,
        vocab_size=json.vocab_size,
        hidden_size=json.hidden_size,
        intermediate_size=json.intermediate_size,
        num_hidden_layers=json.num_hidden_layers,
        num_attention_heads=json.num_attention_heads,
        num_key_value_heads=json.num_key_value_heads or dialect.num_key_value_heads or json.num_attention_heads,
        head_dim=json.head_dim or dialect.head_dim or json.hidden_size // json.num_attention_heads,
        max_position_embeddings=json.max_position_embeddings,
        rms_norm_eps=json.rms_norm_eps,
        rope_theta=rope_theta,
        rope_llama3=llama3,
        qkv_bias=_bias("attention_bias", json.attention_bias, dialect.qkv_bias, architecture),
        o_bias=dialect.qkv_bias is None and bool(json.attention_bias),
        mlp_bias=_bias("mlp_bias", json.mlp_bias, dialect.mlp_bias, architecture),
        qk_norm=dialect.qk_norm,
        tie_word_embeddings=json.tie_word_embeddings,
        bos_token_id=bos_token_id(json.bos_token_id),
        eos_token_ids=eos_token_ids(json.eos_token_id, generation),
        dtype=dtype_name(json.dtype or json.torch_dtype),
    )


def _bias(key: str, given: bool | None, fixed: bool | None, architecture: str) -> bool:
    if fixed is not None and given is not None and given != fixed:
        raise ConfigError(f"{key} = {str(given).lower()}; allowed with {architecture}: {str(fixed).lower()}, or no key")
    return bool(given) if fixed is None else fixed


_LLAMA3_KEYS = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
_ROPE_KEYS = ("rope_type", "type", "rope_theta", "partial_rotary_factor", *_LLAMA3_KEYS)


def _rope(json: _Json) -> tuple[float, Llama3Rope | None]:
    """Theta and scaling, from `rope_theta`, `rope_scaling` (transformers 4) and `rope_parameters` (transformers 5)."""
    key = "rope_scaling" if json.rope_scaling else "rope_parameters"
    rope = json.rope_scaling or json.rope_parameters or {}
    for name, value in rope.items():
        if name not in _ROPE_KEYS and value is not None:
            raise ConfigError(f"{key}.{name} = {value!r}; allowed keys: {', '.join(_ROPE_KEYS)}")
    require_neutral({"partial_rotary_factor": rope.get("partial_rotary_factor")}, prefix=f"{key}.")
    theta = rope.get("rope_theta", json.rope_theta)
    theta = positive(f"{key}.rope_theta", 10_000.0 if theta is None else theta)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "llama3":
        return theta, _llama3(key, rope, json)
    if kind not in ("default", None):
        raise ConfigError(f"{key}.rope_type = {kind!r}; allowed: default, llama3")
    if rope.get("factor") not in (None, 1):
        raise ConfigError(f"{key}.factor = {rope['factor']!r}; allowed with the rope type default: 1, or no key")
    return theta, None


def _llama3(key: str, rope: dict[str, Any], json: _Json) -> Llama3Rope:
    original = json.original_max_position_embeddings or json.max_position_embeddings
    given = {"original_max_position_embeddings": original, **rope}
    factor, low, high, length = (positive(f"{key}.{name}", given.get(name)) for name in _LLAMA3_KEYS)
    if not high > low:
        raise ConfigError(f"{key}.high_freq_factor = {high}; allowed: greater than low_freq_factor = {low}")
    return Llama3Rope(factor, low, high, int(length))
