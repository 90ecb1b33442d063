"""Small GGUF files written as llama.cpp's converter writes them, from random transformers models."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

TEXT = "In the beginning God created the heaven and the earth. And the earth was without form, and void; 1 2 66."
SPECIAL = ("<unk>", "<s>", "</s>")
Q = gguf.GGMLQuantizationType


@cache
def small_tokenizer(vocab_size: int) -> Tokenizer:
    """Byte-level BPE of at most `vocab_size` tokens, the first three of them special."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT] * 20, trainer)
    return tokenizer


class GGUFFile:
    """What goes into a file; a test changes `metadata` and `tensors` before `write`."""

    def __init__(self, model: Any) -> None:
        config = model.config
        self.architecture: str = config.model_type.replace("mistral", "llama")
        self.metadata: dict[str, Any] = _sizes(self.architecture, config) | _tokenizer(config.vocab_size)
        self.tensors = dict(_tensors(self.architecture, config, model.state_dict()))
        self.types: dict[str, gguf.GGMLQuantizationType] = {}
        """Type of a tensor; float32 unless named here."""

    def write(self, path: Path) -> Path:
        writer = gguf.GGUFWriter(path, self.architecture)
        for key, value in self.metadata.items():
            _add(writer, key, value)
        for name, values in self.tensors.items():
            kind = self.types.get(name, Q.F32)
            writer.add_tensor(name, _encode(values, kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path


def _encode(values: np.ndarray, kind: gguf.GGMLQuantizationType) -> np.ndarray:
    """Quantized; where the package only reads a type, blocks of random bytes, which are as good for reading."""
    if kind == Q.F32:
        return values
    try:
        return gguf.quantize(values, kind)
    except NotImplementedError:
        block_size, type_size = gguf.GGML_QUANT_SIZES[kind]
        row_bytes = values.shape[-1] // block_size * type_size
        noise = np.random.default_rng(0).integers(0, 256, (*values.shape[:-1], row_bytes), dtype=np.uint8)
        return noise & 0xBF  # no byte of a float16 scale is then one of infinity or NaN


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def _sizes(architecture: str, config: Any) -> dict[str, Any]:
    sizes = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim if hasattr(config, "head_dim") else 16,
        "attention.value_length": config.head_dim if hasattr(config, "head_dim") else 16,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": float(config.rope_parameters["rope_theta"]),
        "expert_count": 0,
    }
    if architecture == "llama":
        sizes["rope.dimension_count"] = config.head_dim
    return {f"{architecture}.{key}": value for key, value in sizes.items()}


def _tokenizer(vocab_size: int) -> dict[str, Any]:
    tokenizer = small_tokenizer(vocab_size)
    tokens = [tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())]
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens + [f"[PAD{i}]" for i in range(len(tokens), vocab_size)],
        "tokenizer.ggml.token_type": [3] * 3 + [1] * (len(tokens) - 3) + [5] * (vocab_size - len(tokens)),
        "tokenizer.ggml.merges": [" ".join(merge) for merge in merges],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }


PARTS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def _tensors(architecture: str, config: Any, state: dict[str, torch.Tensor]):
    for name, tensor in state.items():
        values = tensor.float().numpy().copy()
        if name == "lm_head.weight":
            if not config.tie_word_embeddings:
                yield "output.weight", values
        elif not name.startswith("model.layers."):
            yield (
                {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}[name],
                values,
            )
        else:
            layer, rest = name.removeprefix("model.layers.").split(".", 1)
            module, kind = rest.rsplit(".", 1)
            heads = {"self_attn.q_proj": config.num_attention_heads, "self_attn.k_proj": config.num_key_value_heads}
            if architecture == "llama" and module in heads:
                values = _interleave(values, heads[module])
            yield f"blk.{layer}.{PARTS[module]}.{kind}", values


def _interleave(values: np.ndarray, num_heads: int) -> np.ndarray:
    """Rows of a head as llama.cpp wants them: 0, d/2, 1, d/2 + 1, ..."""
    head_dim = len(values) // num_heads
    order = [half * head_dim // 2 + i for i in range(head_dim // 2) for half in (0, 1)]
    rows = [head * head_dim + row for head in range(num_heads) for row in order]
    return values[rows]
