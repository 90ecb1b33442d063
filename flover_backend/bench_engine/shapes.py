"""Published shapes of models as config.json, so that a benchmark needs no download."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LLAMA, _MISTRAL, _QWEN = "LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM"
_GPTJ = "GPTJForCausalLM"


@dataclass(frozen=True, slots=True)
class Shape:
    """One model to measure."""

    name: str
    title: str
    config: dict[str, Any]

    def write(self, directory: Path) -> Path:
        """A model directory that holds config.json alone, for `load_format: random`."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "config.json").write_text(json.dumps(self.config, indent=1))
        return directory

    def products(self) -> Iterator[tuple[int, int]]:
        """(out_features, in_features) of every weight product of one iteration, the head last."""
        c = self.config
        if c["architectures"] == [_GPTJ]:
            hidden, inner, num_layers = c["n_embd"], c["n_inner"] or 4 * c["n_embd"], c["n_layer"]
            layer = ((3 * hidden, hidden), (hidden, hidden), (inner, hidden), (hidden, inner))
        else:
            hidden, inner, num_layers = c["hidden_size"], c["intermediate_size"], c["num_hidden_layers"]
            dim = c.get("head_dim") or hidden // c["num_attention_heads"]
            queries, pairs = c["num_attention_heads"] * dim, 2 * c["num_key_value_heads"] * dim
            layer = ((queries + pairs, hidden), (hidden, queries), (2 * inner, hidden), (hidden, inner))
        for _ in range(num_layers):
            yield from layer
        yield c["vocab_size"], hidden

    @property
    def kv_items_per_token(self) -> int:
        """Numbers that a token keeps in all layers, keys and values."""
        c = self.config
        if c["architectures"] == [_GPTJ]:
            return 2 * int(c["n_layer"] * c["n_embd"])
        dim = c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]
        return 2 * int(c["num_hidden_layers"] * c["num_key_value_heads"] * dim)


def _config(architecture: str, dtype: str, sizes: tuple[int, ...], max_len: int, **keys: Any) -> dict[str, Any]:
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    return {
        "architectures": [architecture],
        **dict(zip((*names, "num_key_value_heads"), sizes, strict=True)),
        "max_position_embeddings": max_len,
        "rms_norm_eps": 1e-5,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": dtype,
    } | keys


_GPTJ_6B = {
    "architectures": [_GPTJ],
    "vocab_size": 50400,
    "n_embd": 4096,
    "n_layer": 28,
    "n_head": 16,
    "n_positions": 2048,
    "n_inner": None,
    "rotary_dim": 64,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "bos_token_id": 50256,
    "eos_token_id": 50256,
    "torch_dtype": "float16",
}
SHAPES = {
    shape.name: shape
    for shape in (
        Shape("13b", "LLaMA-13B", _config(_LLAMA, "float16", (32000, 5120, 13824, 40, 40, 40), 2048)),
        Shape(
            "8b",
            "LLaMA-3 8B",
            _config(_LLAMA, "bfloat16", (128256, 4096, 14336, 32, 32, 8), 8192, rope_theta=500000.0),
        ),
        Shape("7b", "LLaMA-7B", _config(_LLAMA, "float16", (32000, 4096, 11008, 32, 32, 32), 2048)),
        Shape(
            "mistral-7b",
            "Mistral-7B",
            _config(_MISTRAL, "bfloat16", (32768, 4096, 14336, 32, 32, 8), 32768, rope_theta=1e6, sliding_window=None),
        ),
        Shape(
            "qwen2.5-7b",
            "Qwen2.5-7B",
            _config(_QWEN, "bfloat16", (152064, 3584, 18944, 28, 28, 4), 32768, rope_theta=1e6, rms_norm_eps=1e-6),
        ),
        Shape("gptj-6b", "GPT-J 6B", _GPTJ_6B),
    )
}
"""By the name that `--models` takes."""
