"""The names and shapes of a GPT-J checkpoint's tensors, and how they become a `GptjModel`."""

from __future__ import annotations

from flover_backend.kernels.linear import Linear
from flover_backend.models.gptj import GptjLayer, GptjModel, LayerNorm
from flover_backend.models.gptj_config import GptjConfig
from flover_backend.models.weights import Weights

PREFIX = "transformer."
EMBEDDING = PREFIX + "wte.weight"
LM_HEAD = "lm_head.weight"


def build_gptj(config: GptjConfig, weights: Weights) -> GptjModel:
    """Take every tensor. Raises `ConfigError` naming missing, misshapen and surplus ones."""
    shape = (config.vocab_size, config.hidden_size)
    embedding = weights.take(EMBEDDING, shape)
    layers = [_layer(config, weights, f"{PREFIX}h.{i}.") for i in range(config.num_hidden_layers)]
    final_norm = _norm(config, weights, PREFIX + "ln_f.")
    head = embedding if config.tie_word_embeddings else weights.take(LM_HEAD, shape)
    lm_head = Linear(head, weights.take("lm_head.bias", shape[:1]))
    weights.finish(leftovers=(LM_HEAD,) if config.tie_word_embeddings else ())
    return GptjModel(config, embedding, layers, final_norm, lm_head)


def _layer(config: GptjConfig, weights: Weights, prefix: str) -> GptjLayer:
    hidden, inner = config.hidden_size, config.intermediate_size
    attn, mlp, square = prefix + "attn.", prefix + "mlp.", (hidden, hidden)
    return GptjLayer(
        norm=_norm(config, weights, prefix + "ln_1."),
        qkv=Linear(weights.take_stacked([f"{attn}{n}_proj.weight" for n in "qkv"], [square] * 3)),
        output=Linear(weights.take(attn + "out_proj.weight", square)),
        fc_in=Linear(weights.take(mlp + "fc_in.weight", (inner, hidden))),
        fc_in_bias=weights.take(mlp + "fc_in.bias", (inner,)),
        fc_out=Linear(weights.take(mlp + "fc_out.weight", (hidden, inner))),
        fc_out_bias=weights.take(mlp + "fc_out.bias", (hidden,)),
    )


def _norm(config: GptjConfig, weights: Weights, prefix: str) -> LayerNorm:
    shape = (config.hidden_size,)
    return LayerNorm(weights.take(prefix + "weight", shape), weights.take(prefix + "bias", shape))
