"""A tiny GPT-J directory with random weights, scaled so that logits spread: 101 tokens, 2 layers, 2 heads of 16."""

from __future__ import annotations

from pathlib import Path

import torch
from tiny_llama import EOS, MAX_LEN, VOCAB, save

HIDDEN, LAYERS, HEADS, ROTARY_DIM = 32, 2, 2, 6


def write(path: Path, seed: int = 0, gain: float = 2.5, **keys: object) -> Path:
    """Save config.json and model.safetensors; `keys` go over config.json's."""
    config: dict[str, object] = {
        "architectures": ["GPTJForCausalLM"],
        "vocab_size": VOCAB,
        "n_embd": HIDDEN,
        "n_layer": LAYERS,
        "n_head": HEADS,
        "n_inner": None,
        "n_positions": MAX_LEN,
        "rotary_dim": ROTARY_DIM,
        "bos_token_id": None,
        "eos_token_id": EOS,
        "torch_dtype": "float32",
    }
    return save(path, config | keys, weights(seed, gain))


def weights(seed: int, gain: float) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {"lm_head": (VOCAB, HIDDEN), "transformer.ln_f": (HIDDEN,)}
    for i in range(LAYERS):
        layer = f"transformer.h.{i}."
        shapes |= {f"{layer}attn.{name}_proj": (HIDDEN, HIDDEN) for name in ("q", "k", "v", "out")}
        shapes |= {f"{layer}mlp.fc_in": (4 * HIDDEN, HIDDEN), f"{layer}mlp.fc_out": (HIDDEN, 4 * HIDDEN)}
        shapes |= {f"{layer}ln_1": (HIDDEN,)}
    tensors = {"transformer.wte.weight": torch.randn(VOCAB, HIDDEN, generator=generator)}
    for name, shape in shapes.items():
        spread = torch.randn(shape, generator=generator)
        tensors[f"{name}.weight"] = spread * gain * shape[1] ** -0.5 if len(shape) == 2 else 1 + 0.2 * spread
        if "_proj" not in name:
            tensors[f"{name}.bias"] = 0.3 * torch.randn(shape[0], generator=generator)
    return tensors
