"""Random Hugging Face models of several shapes, weights scaled so that logits spread, saved as directories."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

BASE: dict[str, Any] = {
    "vocab_size": 307,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
GPTJ_BASE: dict[str, Any] = {
    "vocab_size": 307,
    "n_embd": 64,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 512,
    "rotary_dim": 8,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@dataclass(frozen=True)
class Shape:
    """One random model: transformers' class names begin with `family`; `keys` go over those of `base`."""

    family: str
    keys: dict[str, Any] = field(default_factory=dict)

    @property
    def base(self) -> dict[str, Any]:
        return GPTJ_BASE if self.family == "GPTJ" else BASE


SHAPES = {
    "llama-gqa": Shape("Llama"),
    "llama-mha-untied": Shape("Llama", {"num_key_value_heads": 4}),
    "llama-mqa-tied": Shape("Llama", {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    "llama-head-dim": Shape("Llama", {"head_dim": 24}),
    "llama-biases": Shape("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-llama3-rope": Shape("Llama", {"rope_parameters": LLAMA3}),
    "llama-theta": Shape("Llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 100_000.0}}),
    "mistral": Shape("Mistral", {"sliding_window": None, "head_dim": 32}),
    "qwen2": Shape("Qwen2", {"tie_word_embeddings": True}),
    "qwen3": Shape("Qwen3", {"head_dim": 32}),
}

GPTJ_SHAPES = {
    "gptj": Shape("GPTJ"),
    "gptj-whole-heads": Shape("GPTJ", {"rotary_dim": 16, "n_inner": 96, "layer_norm_epsilon": 1e-3}),
    "gptj-tied": Shape("GPTJ", {"tie_word_embeddings": True, "n_head": 2, "rotary_dim": 12}),
}


def make(shape: Shape, dtype: torch.dtype = torch.float32, seed: int = 0, gain: float = 3.0) -> Any:
    """A transformers model with normal weights of standard deviation gain / sqrt(fan in) on the CPU."""
    torch.manual_seed(seed)
    config = getattr(transformers, f"{shape.family}Config")(**(shape.base | shape.keys))
    model = getattr(transformers, f"{shape.family}ForCausalLM")(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 and name.endswith("weight"):
            parameter.copy_(1 + 0.2 * torch.randn_like(parameter))
        elif parameter.ndim == 1:
            parameter.normal_(std=0.3)
        else:
            parameter.normal_(std=gain * parameter.shape[1] ** -0.5)
    return model.to(dtype)


def save(model: Any, path: Path, **kwargs: Any) -> Path:
    model.save_pretrained(path, **kwargs)
    return path
