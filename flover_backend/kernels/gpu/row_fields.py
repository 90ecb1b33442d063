"""`row_layout` for kernels: the same numbers as constants that Triton lets a kernel read, and small readers."""

from __future__ import annotations

import triton
import triton.language as tl

from flover_backend.kernels import row_layout

LAST_TOKEN = tl.constexpr(row_layout.LAST_TOKEN)
NUM_TOKENS = tl.constexpr(row_layout.NUM_TOKENS)
FINISH_AT = tl.constexpr(row_layout.FINISH_AT)
IGNORE_EOS = tl.constexpr(row_layout.IGNORE_EOS)
FINISHED = tl.constexpr(row_layout.FINISHED)
SEED_LOW = tl.constexpr(row_layout.SEED_LOW)
SEED_HIGH = tl.constexpr(row_layout.SEED_HIGH)
TOP_K = tl.constexpr(row_layout.TOP_K)
MASKED_UNTIL = tl.constexpr(row_layout.MASKED_UNTIL)
PENALTY_SLOT = tl.constexpr(row_layout.PENALTY_SLOT)
NUM_BIASES = tl.constexpr(row_layout.NUM_BIASES)
NUM_MASKS = tl.constexpr(row_layout.NUM_MASKS)
TEMPERATURE = tl.constexpr(row_layout.TEMPERATURE)
TOP_P = tl.constexpr(row_layout.TOP_P)
MIN_P = tl.constexpr(row_layout.MIN_P)
REPETITION = tl.constexpr(row_layout.REPETITION)
PRESENCE = tl.constexpr(row_layout.PRESENCE)
FREQUENCY = tl.constexpr(row_layout.FREQUENCY)
ROW_INTS = tl.constexpr(row_layout.ROW_INTS)
MAX_BIASES = tl.constexpr(row_layout.MAX_BIASES)
MAX_MASKS = tl.constexpr(row_layout.MAX_MASKS)
ONE = tl.constexpr(0x3F800000)
"""Bits of the float 1"""


@triton.jit
def float_field(row_state, FIELD: tl.constexpr):
    """A row's field that holds the bits of a float; `row_state` points at the row."""
    return tl.load(row_state + FIELD).to(tl.float32, bitcast=True)


@triton.jit
def dead_row(fields):
    """A dead row's ints at `fields` [ROW_INTS] (0 .. ROW_INTS - 1): one token, no end, greedy, nothing asked."""
    ints = tl.where(fields == NUM_TOKENS, 1, 0)
    ints = tl.where(fields == PENALTY_SLOT, -1, ints)
    return tl.where((fields == TOP_P) | (fields == REPETITION), ONE, ints)
