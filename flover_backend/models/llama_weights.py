"""The names and shapes of a LLaMA checkpoint's tensors, and how they become a `LlamaModel`."""

from __future__ import annotations

import torch

from flover_backend.kernels.linear import Linear
from flover_backend.models.config import LlamaConfig
from flover_backend.models.llama import LlamaLayer, LlamaModel
from flover_backend.models.weights import Weights

PREFIX = "model."
EMBEDDING = PREFIX + "embed_tokens.weight"
LM_HEAD = "lm_head.weight"


def build_llama(config: LlamaConfig, weights: Weights) -> LlamaModel:
    """Take every tensor. Raises `ConfigError` naming missing, misshapen and surplus ones."""
    shape = (config.vocab_size, config.hidden_size)
    embedding = weights.take(EMBEDDING, shape)
    layers = [_layer(config, weights, f"{PREFIX}layers.{i}.") for i in range(config.num_hidden_layers)]
    final_norm = weights.take(PREFIX + "norm.weight", (config.hidden_size,))
    lm_head = Linear(embedding if config.tie_word_embeddings else weights.take(LM_HEAD, shape))
    weights.finish(leftovers=(LM_HEAD,) if config.tie_word_embeddings else ())
    return LlamaModel(config, embedding, layers, final_norm, lm_head)


def _layer(config: LlamaConfig, weights: Weights, prefix: str) -> LlamaLayer:
    hidden, inner, dim = config.hidden_size, config.intermediate_size, config.head_dim
    heads, kv_heads = config.num_attention_heads * dim, config.num_key_value_heads * dim
    attn, mlp = prefix + "self_attn.", prefix + "mlp."
    return LlamaLayer(
        input_norm=weights.take(prefix + "input_layernorm.weight", (hidden,)),
        qkv=_linear(
            weights, attn, ("q_proj", "k_proj", "v_proj"), (heads, kv_heads, kv_heads), hidden, config.qkv_bias
        ),
        query_norm=weights.take(attn + "q_norm.weight", (dim,)) if config.qk_norm else None,
        key_norm=weights.take(attn + "k_norm.weight", (dim,)) if config.qk_norm else None,
        output=_linear(weights, attn, ("o_proj",), (hidden,), heads, config.o_bias),
        post_norm=weights.take(prefix + "post_attention_layernorm.weight", (hidden,)),
        gate_up=_linear(weights, mlp, ("gate_proj", "up_proj"), (inner, inner), hidden, config.mlp_bias),
        down=_linear(weights, mlp, ("down_proj",), (hidden,), inner, config.mlp_bias),
    )


def _linear(
    weights: Weights, prefix: str, names: tuple[str, ...], rows: tuple[int, ...], columns: int, has_bias: bool
) -> Linear:
    """Several projections of the same input as one product."""
    weight = weights.take_stacked([f"{prefix}{n}.weight" for n in names], [(r, columns) for r in rows])
    bias: torch.Tensor | None = None
    if has_bias:
        bias = weights.take_stacked([f"{prefix}{n}.bias" for n in names], [(r,) for r in rows])
    return Linear(weight, bias)
