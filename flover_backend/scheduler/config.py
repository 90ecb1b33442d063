"""What the scheduler must know of the engine around it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

ReorderMode = Literal["none", "rows", "compact"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """Limits and choices, fixed for the scheduler's life. Raises ValueError naming the field."""

    max_rows: int
    max_model_len: int
    block_size: int
    num_blocks: int
    """Blocks that requests can use; the null block is not counted."""
    reorder: ReorderMode = "rows"
    prefill_token_budget: int | Callable[[int, int, int], int] = 512
    """Most prompt tokens in one iteration, or a function of `prefill_budget`'s arguments. At least 1."""
    split_budget: Callable[[int, int], int] | None = None
    """Of a number of decoding rows and the budget beside them, what a prompt that has to be split is given: at most
    the budget. None: all of it."""
    max_queued_requests: int = 1024
    max_queued_tokens: int = 1 << 20
    pipeline_depth: int = 0
    """How many plans are made before the result of a plan is known: 0, or 1 where the device runs ahead."""
    eos_token_ids: tuple[int, ...] = ()
    max_block_moves: int = 32
    """Most blocks that `compact` moves in one iteration (32 blocks of 16 tokens of a 13B model: about 0.2 ms)."""
    clock: Callable[[], float] = time.monotonic
    """The clock of `Request.deadline`, in seconds."""

    def __post_init__(self) -> None:
        for name in ("max_rows", "max_model_len", "block_size", "num_blocks", "max_queued_requests", "max_block_moves"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; at least 1 is needed")
        for name in ("pipeline_depth", "max_queued_tokens"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it cannot be negative")
        if self.reorder not in ("none", "rows", "compact"):
            raise ValueError(f"reorder is {self.reorder!r}; allowed are none, rows, compact")
        if isinstance(self.prefill_token_budget, int):
            self.prefill_budget(0)

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that hold the keys and values of `num_tokens` tokens."""
        return -(-num_tokens // self.block_size)

    def prefill_budget(self, num_decode_rows: int, num_kv_tokens: int = 0, num_computed: int = 0) -> int:
        """Prompt tokens that may run beside `num_decode_rows` rows that attend to `num_kv_tokens` tokens.

        num_computed: tokens behind the piece that comes first. Raises ValueError below 1.
        """
        budget = self.prefill_token_budget
        tokens = budget if isinstance(budget, int) else budget(num_decode_rows, num_kv_tokens, num_computed)
        if tokens < 1:
            raise ValueError(f"prefill_token_budget is {tokens} beside {num_decode_rows} rows; at least 1 is needed")
        return tokens
