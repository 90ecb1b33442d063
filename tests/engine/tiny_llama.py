"""A tiny LLaMA directory with random weights, scaled so that logits spread: 101 tokens, 2 layers, 4 heads over 2."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from flover_backend.engine.sizing import resolve_device
from flover_backend.models.batch import Model
from flover_backend.models.load import load_model

VOCAB, HIDDEN, INNER, LAYERS, HEADS, KV_HEADS, HEAD_DIM = 101, 32, 48, 2, 4, 2, 8
EOS = 2
MAX_LEN = 256


def write(path: Path, seed: int = 0, gain: float = 2.5, **keys: object) -> Path:
    """Save config.json and model.safetensors; `keys` go over config.json's."""
    config: dict[str, object] = {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "max_position_embeddings": MAX_LEN,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "eos_token_id": EOS,
        "torch_dtype": "float32",
    }
    return save(path, config | keys, weights(seed, gain))


def save(path: Path, config: dict[str, object], tensors: dict[str, torch.Tensor]) -> Path:
    """Make the directory, with config.json and model.safetensors in it."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    save_file(tensors, path / "model.safetensors")
    return path


def weights(seed: int, gain: float) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, generator=generator) * gain * columns**-0.5

    tensors = {
        "model.embed_tokens.weight": matrix(VOCAB, HIDDEN),
        "model.norm.weight": torch.ones(HIDDEN),
        "lm_head.weight": matrix(VOCAB, HIDDEN),
    }
    for i in range(LAYERS):
        shapes = {
            "self_attn.q_proj": (HEADS * HEAD_DIM, HIDDEN),
            "self_attn.k_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
            "self_attn.v_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
            "self_attn.o_proj": (HIDDEN, HEADS * HEAD_DIM),
            "mlp.gate_proj": (INNER, HIDDEN),
            "mlp.up_proj": (INNER, HIDDEN),
            "mlp.down_proj": (HIDDEN, INNER),
        }
        tensors |= {f"model.layers.{i}.{name}.weight": matrix(*shape) for name, shape in shapes.items()}
        tensors |= {
            f"model.layers.{i}.{name}.weight": torch.ones(HIDDEN)
            for name in ("input_layernorm", "post_attention_layernorm")
        }
    return tensors


def load(path: Path) -> Model:
    return load_model(path, "float32", str(resolve_device("cpu")), lambda stage, fraction: None)
