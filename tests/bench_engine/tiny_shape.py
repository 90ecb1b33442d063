"""Shapes and sizes with which every part runs in seconds on a CPU."""

from __future__ import annotations

from flover_backend.bench_engine.shapes import SHAPES, Shape, _config
from flover_backend.bench_engine.workloads import Sizes

TINY = Shape("tiny", "Tiny", _config("LlamaForCausalLM", "float32", (101, 32, 48, 2, 4, 2), 256))
_GPTJ = {"vocab_size": 101, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 256, "rotary_dim": 6}
TINY_GPTJ = Shape(
    "tiny",
    "Tiny GPT-J",
    SHAPES["gptj-6b"].config | _GPTJ | {"bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "float32"},
)
SIZES = Sizes(
    rows=(1, 4),
    new_tokens=20,
    spaced=4,
    at_once=6,
    gap_scale=0.05,
    burst=4,
    burst_repeats=2,
    join_rows=3,
    join_prompt=100,
    join_after=12,
    join_repeats=2,
    prefill_prompts=4,
    prefill_tokens=64,
    prefill_repeats=2,
    profiled=5,
    dense=64,
)
