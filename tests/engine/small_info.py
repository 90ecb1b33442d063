"""What a small engine says of itself: the limits that fronts are tested with."""

from __future__ import annotations

from flover_backend.channel import EngineInfo

INFO = EngineInfo(
    front_number=1,
    model_dir="/nowhere",
    vocab_size=1024,
    eos_token_ids=[2],
    max_model_len=128,
    max_rows=8,
    block_size=16,
    num_blocks=64,
    max_tokens_limit=100,
    max_tokens_default=16,
    max_prompt_bytes=600,
    max_queued_requests=4,
    max_queued_tokens=1000,
    dtype="float32",
    device="cpu",
    reorder="rows",
    pid=1,
)
