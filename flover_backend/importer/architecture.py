"""What a LLaMA-family GGUF calls its sizes and tensors, and what a Hugging Face directory calls them.

Knows config.json's keys and the order of rows; knows no files and no tokenizer. llama.cpp stores the query and key
rows of `llama` models with the two halves of each head interleaved (its rotary embedding pairs neighbours); Hugging
Face pairs row i with row i + head_dim/2, so the rows are put back. `qwen2` and `qwen3` are stored as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flover_backend.importer.rope import llama3_scaling
from flover_backend.importer.source import GGUFError, GGUFSource

Array = npt.NDArray[np.float32]

CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}

READ_KEYS = (
    "context_length",
    "embedding_length",
    "block_count",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "rope.freq_base",
    "rope.dimension_count",
    "rope.scaling.type",
    "vocab_size",
    "tensor_data_layout",
)
"""Keys under the architecture's name that are read here or change nothing. Others must be off (0, false, none)."""

LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
ROPE_FACTORS = "rope_freqs.weight"


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a model, as its metadata gives them."""

    architecture: str
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int


def read_shape(source: GGUFSource) -> Shape:
    """Check that the file is of the LLaMA family and read its sizes. Raises `GGUFError`."""
    architecture = source.required("general.architecture")
    if architecture not in CLASSES:
        raise GGUFError(
            f"{source.path}: general.architecture is {architecture!r}; the import knows {', '.join(CLASSES)}"
        )
    _refuse_unknown_keys(source, architecture)

    def size(key: str, default: int | None = None) -> int:
        name = f"{architecture}.{key}"
        value = source.required(name) if default is None else source.value(name, default)
        if not isinstance(value, int) or value < 1:
            raise GGUFError(f"{source.path}: {name} is {value!r}; a positive whole number is needed")
        return value

    hidden_size, num_heads, num_layers = size("embedding_length"), size("attention.head_count"), size("block_count")
    if num_layers > len(source.shapes):
        raise GGUFError(
            f"{source.path}: {architecture}.block_count is {num_layers}, "
            f"but the file holds {len(source.shapes)} tensors"
        )
    head_dim = size("attention.key_length", size("rope.dimension_count", hidden_size // num_heads))
    _require_equal(source, f"{architecture}.rope.dimension_count", head_dim)
    _require_equal(source, f"{architecture}.attention.value_length", head_dim)
    return Shape(
        architecture=architecture,
        num_layers=num_layers,
        hidden_size=hidden_size,
        intermediate_size=size("feed_forward_length"),
        num_heads=num_heads,
        num_kv_heads=size("attention.head_count_kv", num_heads),
        head_dim=head_dim,
        vocab_size=source.shapes.get("token_embd.weight", (size("vocab_size", 1),))[0],
    )


def make_config(source: GGUFSource, shape: Shape) -> dict[str, Any]:
    """config.json of the model, without special token ids. Raises `GGUFError`."""
    prefix = shape.architecture
    biased = {part: f"blk.0.{part}.bias" in source.shapes for part in ("attn_q", "attn_output", "ffn_gate")}
    config: dict[str, Any] = {
        "architectures": [CLASSES[prefix]],
        "model_type": prefix,
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": source.required(f"{prefix}.context_length"),
        "rms_norm_eps": source.required(f"{prefix}.attention.layer_norm_rms_epsilon"),
        "rope_theta": source.value(f"{prefix}.rope.freq_base", 10000.0),
        "rope_scaling": _rope_scaling(source, shape),
        "tie_word_embeddings": "output.weight" not in source.shapes,
    }
    if prefix == "llama":
        config |= {"attention_bias": biased["attn_output"], "mlp_bias": biased["ffn_gate"]}
    if prefix == "qwen3":
        config["attention_bias"] = biased["attn_q"]
    return config


def tensor_names(source: GGUFSource, shape: Shape) -> dict[str, str]:
    """Hugging Face name -> GGUF name, in the order of the forward pass. Raises `GGUFError` on surplus tensors."""
    names = {"model.embed_tokens.weight": "token_embd.weight"}
    for layer in range(shape.num_layers):
        for part, module in LAYER_TENSORS.items():
            for kind in ("weight", "bias"):
                names[f"model.layers.{layer}.{module}.{kind}"] = f"blk.{layer}.{part}.{kind}"
    names |= {"model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}
    present = {ours: theirs for ours, theirs in names.items() if theirs in source.shapes}
    known = dict.fromkeys(present.values())
    surplus = [name for name in source.shapes if name not in known and name != ROPE_FACTORS]
    if surplus:
        raise GGUFError(f"{source.path}: tensors that a {shape.architecture} model does not have: {', '.join(surplus)}")
    return present


def expected_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor that a model of this config.json must have, by its Hugging Face name."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    q_rows, kv_rows = (config[n] * config["head_dim"] for n in ("num_attention_heads", "num_key_value_heads"))
    rows = {"q_proj": (q_rows, hidden), "k_proj": (kv_rows, hidden), "v_proj": (kv_rows, hidden)}
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], hidden), "model.norm.weight": (hidden,)}
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    for layer in (f"model.layers.{i}." for i in range(config["num_hidden_layers"])):
        shapes |= {f"{layer}{norm}.weight": (hidden,) for norm in ("input_layernorm", "post_attention_layernorm")}
        attention = rows | {"o_proj": (hidden, q_rows)}
        shapes |= {f"{layer}self_attn.{name}.weight": shape for name, shape in attention.items()}
        if config["model_type"] == "qwen3":
            shapes |= {f"{layer}self_attn.{name}.weight": (config["head_dim"],) for name in ("q_norm", "k_norm")}
        if config["model_type"] == "qwen2":
            shapes |= {f"{layer}self_attn.{name}.bias": shape[:1] for name, shape in rows.items()}
        if config.get("attention_bias"):
            shapes |= {f"{layer}self_attn.{name}.bias": shape[:1] for name, shape in attention.items()}
        mlp = {"gate_proj": (inner, hidden), "up_proj": (inner, hidden), "down_proj": (hidden, inner)}
        shapes |= {f"{layer}mlp.{name}.weight": shape for name, shape in mlp.items()}
        if config.get("mlp_bias"):
            shapes |= {f"{layer}mlp.{name}.bias": shape[:1] for name, shape in mlp.items()}
    return shapes


def in_hugging_face_order(name: str, values: Array, shape: Shape) -> Array:
    """`values` of the GGUF tensor `name`, rows [num_heads * head_dim, ...] in Hugging Face's order."""
    if shape.architecture != "llama" or not (".attn_q." in name or ".attn_k." in name):
        return values
    num_heads = shape.num_heads if ".attn_q." in name else shape.num_kv_heads
    pairs = values.reshape(num_heads, shape.head_dim // 2, 2, -1)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(values.shape)


def _rope_scaling(source: GGUFSource, shape: Shape) -> dict[str, Any] | None:
    key = f"{shape.architecture}.rope.scaling.type"
    kind = source.value(key, "none")
    if kind != "none":
        raise GGUFError(f"{source.path}: {key} is {kind!r}; allowed are 'none' and llama3's factors ({ROPE_FACTORS})")
    if ROPE_FACTORS not in source.shapes:
        return None
    theta = source.value(f"{shape.architecture}.rope.freq_base", 10000.0)
    scaling = llama3_scaling(source.tensor(ROPE_FACTORS), theta, shape.head_dim)
    if scaling is None:
        raise GGUFError(f"{source.path}: the rope factors in {ROPE_FACTORS} are not llama3's")
    return scaling


def _refuse_unknown_keys(source: GGUFSource, architecture: str) -> None:
    known = {f"{architecture}.{key}" for key in READ_KEYS}
    for key in source.names():
        if key.startswith(f"{architecture}.") and key not in known and source.value(key) not in (0, False, "none", ""):
            raise GGUFError(f"{source.path}: {key} is {source.value(key)!r}; the import does not support it")


def _require_equal(source: GGUFSource, key: str, head_dim: int) -> None:
    value = source.value(key, head_dim)
    if value != head_dim:
        raise GGUFError(f"{source.path}: {key} is {value!r}; only the head's size, {head_dim}, is supported")
