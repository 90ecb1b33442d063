"""config.json of GPT-J as one frozen `GptjConfig`.

Absent keys take the values that transformers gives them. Keys that change the mathematics and that models/gptj.py
does not compute must be neutral (models/neutral.py); any other unknown key is metadata and ignored. No torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from flover_backend.errors import ConfigError
from flover_backend.models.config import ModelConfig
from flover_backend.models.config_values import (
    bos_token_id,
    check_eos_token_ids,
    dtype_name,
    eos_token_ids,
    require_layers,
    require_positive,
)
from flover_backend.models.neutral import require_neutral

ARCHITECTURE = "GPTJForCausalLM"
ROPE_THETA = 10_000.0
"""The architecture fixes it."""

_GELU_TANH = ("gelu_new", "gelu_pytorch_tanh")
_OWN: dict[str, tuple[Any, ...]] = {
    "activation_function": _GELU_TANH,
    "hidden_act": _GELU_TANH,
    "hidden_activation": _GELU_TANH,
    "rotary": (True,),
    "rope_interleaved": (True,),
    "rope_interleave": (True,),
    "partial_rotary_factor": (),
    "rotary_pct": (),
    "rope_theta": (ROPE_THETA,),
    "rope_scaling": ({},),
    "rope_parameters": ({},),
    "parallel_attn": (True,),
    "use_parallel_residual": (True,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "attention_bias": (False,),
    "mlp_bias": (True,),
}
_OTHER_NAMES = {
    "hidden_size": "n_embd",
    "num_attention_heads": "n_head",
    "num_key_value_heads": "n_head",
    "num_hidden_layers": "n_layer",
    "max_position_embeddings": "n_positions",
}
"""What other architectures call them; a config.json that has both must mean the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GptjConfig(ModelConfig):
    """What models/gptj.py computes. Every field is resolved; sizes are positive and fit each other."""

    intermediate_size: int
    rotary_dim: int
    """Of each head's elements, the first so many are rotated."""
    layer_norm_eps: float

    @property
    def activation_width(self) -> int:
        """Residual and normed input, and the wider of queries, keys, values and what they give, or attention's output
        beside the MLP's inner values before and after the activation."""
        return 2 * self.hidden_size + max(5 * self.hidden_size, self.hidden_size + 2 * self.intermediate_size)

    def __post_init__(self) -> None:
        if self.head_dim * self.num_attention_heads != self.hidden_size:
            raise ConfigError(f"n_head = {self.num_attention_heads}; allowed: a divisor of n_embd = {self.hidden_size}")
        if self.head_dim % 2:
            raise ConfigError(f"n_embd / n_head = {self.head_dim}; allowed: an even number")
        if self.rotary_dim % 2 or self.rotary_dim > self.head_dim:
            raise ConfigError(
                f"rotary_dim = {self.rotary_dim}; allowed: an even number up to n_embd / n_head = {self.head_dim}"
            )
        check_eos_token_ids(self.eos_token_ids, self.vocab_size)


class _Json(msgspec.Struct, frozen=True):
    """The keys of config.json that are read, with their types and transformers' defaults."""

    vocab_size: int
    n_embd: int
    n_head: int
    n_layer: int
    n_positions: int
    rotary_dim: int = 64
    n_inner: int | None = None
    layer_norm_epsilon: float = 1e-5
    tie_word_embeddings: bool = False
    bos_token_id: int | list[int] | None = 50256
    eos_token_id: int | list[int] | None = 50256
    dtype: str | None = None
    torch_dtype: str | None = None


def parse_gptj(architecture: str, config: dict[str, Any], generation: dict[str, Any]) -> GptjConfig:
    """`GptjConfig` from the contents of config.json and generation_config.json ({} where there is none).

    Raises `ConfigError` naming the key, its value and what is allowed.
    """
    try:
        json = msgspec.convert(config, _Json)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{error}") from None
    for name, own in _OTHER_NAMES.items():
        if config.get(name) not in (None, config[own]):
            raise ConfigError(f"{name} = {config[name]!r}; allowed beside {own} = {config[own]}: the same, or no key")
    require_neutral(config | {"max_position_embeddings": json.n_positions}, own=_OWN)
    require_positive(json, "vocab_size", "n_embd", "n_head", "n_layer", "n_positions", "rotary_dim", "n_inner")
    require_positive(json, "layer_norm_epsilon")
    require_layers("n_layer", json.n_layer)
    return GptjConfig(
        architecture=architecture,
        vocab_size=json.vocab_size,
        hidden_size=json.n_embd,
        num_hidden_layers=json.n_layer,
        num_attention_heads=json.n_head,
        num_key_value_heads=json.n_head,
        head_dim=json.n_embd // json.n_head,
        max_position_embeddings=json.n_positions,
        bos_token_id=bos_token_id(json.bos_token_id),
        eos_token_ids=eos_token_ids(json.eos_token_id, generation),
        dtype=dtype_name(json.dtype or json.torch_dtype),
        intermediate_size=json.n_inner or 4 * json.n_embd,
        rotary_dim=json.rotary_dim,
        layer_norm_eps=json.layer_norm_epsilon,
        tie_word_embeddings=json.tie_word_embeddings,
    )
