"""A GPT-J directory laid out as the published 6B is: config.json, shards, masks in every layer, a padded vocabulary."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

CONFIG = {
    "activation_function": "gelu_new", "architectures": ["GPTJForCausalLM"], "attn_pdrop": 0.0, "bos_token_id": 50256,
    "embd_pdrop": 0.0, "eos_token_id": 50256, "gradient_checkpointing": False, "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05, "model_type": "gptj", "n_embd": 4096, "n_head": 16, "n_inner": None, "n_layer": 28,
    "n_positions": 2048, "resid_pdrop": 0.0, "rotary": True, "rotary_dim": 64, "scale_attn_weights": True,
    "summary_activation": None, "summary_first_dropout": 0.1, "summary_proj_to_labels": True,
    "summary_type": "cls_index", "summary_use_proj": True, "tie_word_embeddings": False,
    "tokenizer_class": "GPT2Tokenizer", "use_cache": True, "vocab_size": 50400,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50, "temperature": 1.0}},
}  # fmt: skip
"""EleutherAI/gpt-j-6b's; it names no dtype."""
_SIZES = ("n_embd", "n_head", "n_inner", "n_layer", "n_positions", "rotary_dim", "bos_token_id", "eos_token_id")
_SHARD_BYTES = 300_000


def write(source: Path, target: Path, dtype: torch.dtype, padded_vocab: int, pad_bias: float = -1e4) -> Path:
    """The GPT-J in `source` once more in `target`, without tokenizer. Ids that pad its vocabulary, to which no
    tokenizer has a text, get the bias `pad_bias` in the head."""
    config = json.loads((source / "config.json").read_text())
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(source / "model.safetensors").items()}
    for name in ("transformer.wte.weight", "lm_head.weight", "lm_head.bias"):
        pad = tensors[name].new_full((padded_vocab - config["vocab_size"], *tensors[name].shape[1:]), 0.0)
        tensors[name] = torch.cat((tensors[name], pad + pad_bias if name == "lm_head.bias" else pad))
    length = config["n_positions"]
    for layer in range(config["n_layer"]):
        mask = torch.ones(length, length, dtype=torch.bool).tril()
        tensors[f"transformer.h.{layer}.attn.bias"] = mask.view(1, 1, length, length)
        tensors[f"transformer.h.{layer}.attn.masked_bias"] = torch.tensor(-1e9)
    target.mkdir()
    sizes = {key: config[key] for key in _SIZES}
    (target / "config.json").write_text(json.dumps(CONFIG | sizes | {"vocab_size": padded_vocab}))
    _save_shards(target, tensors)
    return target


def _save_shards(target: Path, tensors: dict[str, torch.Tensor]) -> None:
    shards: list[dict[str, torch.Tensor]] = [{}]
    for name, tensor in sorted(tensors.items()):
        if sum(each.nbytes for each in shards[-1].values()) > _SHARD_BYTES:
            shards.append({})
        shards[-1][name] = tensor.contiguous()
    files = [f"model-{number + 1:05}-of-{len(shards):05}.safetensors" for number in range(len(shards))]
    for file, shard in zip(files, shards, strict=True):
        save_file(shard, target / file)
    weight_map = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
    (target / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
