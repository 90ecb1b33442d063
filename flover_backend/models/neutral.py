"""The keys of config.json that change the mathematics in ways that no model here computes, and their neutral values.

A key that is absent, null or neutral changes nothing; any other value must fail the load, since the model would
answer with the wrong numbers in silence. Keys that are not listed are metadata.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from flover_backend.errors import ConfigError

_SILU = ("silu", "swish")
_OFF: tuple[Any, ...] = (False,)
_ONE: tuple[Any, ...] = (1,)
_EMPTY: tuple[Any, ...] = ({}, [])
_NONE: tuple[Any, ...] = ()

NEUTRAL: dict[str, tuple[Any, ...]] = {
    # activation
    "hidden_act": _SILU,
    "hidden_activation": _SILU,
    "activation_function": _SILU,
    # position
    "position_embedding_type": ("rope", "rotary"),
    "partial_rotary_factor": _ONE,
    "rotary_pct": _ONE,
    "rope_interleaved": _OFF,
    "rope_interleave": _OFF,
    "rope_local_base_freq": _NONE,
    "no_rope_layers": _EMPTY,
    "no_rope_layer_interval": _NONE,
    "alibi": _OFF,
    "use_alibi": _OFF,
    # attention
    "attention_chunk_size": _NONE,
    "attn_temperature_tuning": _OFF,
    "attn_logit_softcapping": _NONE,
    "query_pre_attn_scalar": _NONE,
    "attention_multiplier": _NONE,
    "attention_scale": _NONE,
    "attention_out_bias": _OFF,
    "attention_sinks": _OFF,
    "attn_output_gate": _OFF,
    "clip_qkv": _NONE,
    "qkv_bias": _OFF,
    "o_bias": _OFF,
    "use_bias": _OFF,
    "use_qkv_bias": _OFF,
    "qk_norm": _OFF,
    "use_qk_norm": _OFF,
    "qk_layernorm": _OFF,
    "parallel_attn": _OFF,
    "use_parallel_residual": _OFF,
    "pruned_heads": _EMPTY,
    "is_causal": (True,),
    "use_bidirectional_attention": _OFF,
    "is_encoder_decoder": _OFF,
    "add_cross_attention": _OFF,
    "cross_attention_layers": _EMPTY,
    # scales
    "logit_scale": _ONE,
    "logits_scaling": _ONE,
    "final_logit_softcapping": _NONE,
    "embedding_multiplier": _ONE,
    "residual_multiplier": _ONE,
    "scale_emb": _ONE,
    "scale_depth": _NONE,
    "dim_model_base": _NONE,
    "use_mup": _OFF,
    "mup_width_scale": _ONE,
    "rms_norm_add_unit_offset": _OFF,
    # structure
    "pretraining_tp": _ONE,
    "num_local_experts": _NONE,
    "num_experts": (0,),
    "n_routed_experts": _NONE,
    "moe_intermediate_size": _NONE,
    "kv_lora_rank": _NONE,
    "per_layer_config": _EMPTY,
    "layer_group_size": _NONE,
    "num_kv_shared_layers": (0,),
    # weights
    "quantization_config": _NONE,
    "compression_config": _NONE,
}
"""Key -> the values that change nothing (null and absence always do)."""


def require_neutral(
    config: dict[str, Any], prefix: str = "", own: Mapping[str, tuple[Any, ...]] = MappingProxyType({})
) -> None:
    """Raise `ConfigError` naming the first key that changes the mathematics, its value and what is allowed.

    own: keys whose neutral values are others in the caller's architecture, or that it alone has.
    """
    for key, allowed in (NEUTRAL | dict(own)).items():
        value = config.get(key)
        if value is not None and not _is_among(value, allowed):
            raise _refusal(prefix + key, value, allowed)
    for key, rule in _WINDOW_RULES.items():
        if config.get(key) is not None and not rule(config):
            raise _refusal(prefix + key, config[key], _WINDOW_ALLOWED[key])


def _is_among(value: Any, allowed: tuple[Any, ...]) -> bool:
    """Equality in which true is not 1 and false not 0."""
    return any(value == a and isinstance(value, bool) == isinstance(a, bool) for a in allowed)


def _refusal(name: str, value: Any, allowed: tuple[Any, ...]) -> ConfigError:
    choices = ", ".join([*(f"{a!r}" for a in allowed), "null"])
    return ConfigError(f"{name} = {value!r} changes the mathematics and is not supported; allowed: {choices}")


def _window_is_idle(config: dict[str, Any]) -> bool:
    """No sequence can be longer than the window, or the switch that Qwen configs have for it is off."""
    window, longest = config.get("sliding_window"), config.get("max_position_embeddings", 0)
    switched_off = config.get("use_sliding_window") is False
    return switched_off or window is None or (isinstance(window, int) and window >= longest)


def _layers_are_full(config: dict[str, Any]) -> bool:
    kinds = ("full_attention", "sliding_attention") if _window_is_idle(config) else ("full_attention",)
    return all(kind in kinds for kind in config["layer_types"])


_WINDOW_ALLOWED = {
    "sliding_window": ("a window of at least max_position_embeddings",),
    "layer_types": ("full_attention in each layer",),
}
_WINDOW_RULES: dict[str, Callable[[dict[str, Any]], bool]] = {
    "sliding_window": _window_is_idle,
    "layer_types": _layers_are_full,
}
