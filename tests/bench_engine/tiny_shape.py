"""A shape and sizes with which every part runs in seconds on a CPU."""

from __future__ import annotations

from flover_backend.bench_engine.shapes import Shape, _config
from flover_backend.bench_engine.workloads import Sizes

TINY = Shape("tiny", "Tiny", _config("LlamaForCausalLM", "float32", (101, 32, 48, 2, 4, 2), 256))
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
