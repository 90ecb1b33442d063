"""Where a row's facts lie in the device's row state: an int32 matrix [max_rows + 1, ROW_INTS], one row of it a row.

Floats are stored by their bits, a 64-bit seed as two halves. The last row is always dead: batches are padded with it.
Beside the matrix: block_table [max_rows + 1, max_blocks] int32, and three tables of rare parameters,
bias_ids int32 and bias_values float32 [max_rows + 1, MAX_BIASES], mask_ids int32 [max_rows + 1, MAX_MASKS].
"""

from __future__ import annotations

LAST_TOKEN = 0
NUM_TOKENS = 1
"""Tokens known; a decode feeds LAST_TOKEN at position NUM_TOKENS - 1. A dead row has 1."""
FINISH_AT = 2
"""NUM_TOKENS at which the sequence ends by length. 0: a dead row, which never advances."""
IGNORE_EOS = 3
FINISHED = 4
"""1 once a token ended the sequence or its length did: such a row does not advance and writes no KV."""
SEED_LOW = 5
SEED_HIGH = 6
TOP_K = 7
"""0: off"""
MASKED_UNTIL = 8
"""NUM_TOKENS below which the row's `mask_ids` are masked (min_tokens)."""
PENALTY_SLOT = 9
"""Row of the token counts; -1: the row uses no penalty."""
NUM_BIASES = 10
NUM_MASKS = 11
TEMPERATURE = 12
"""Float bits; 0: greedy"""
TOP_P = 13
"""Float bits; 1: off"""
MIN_P = 14
"""Float bits; 0: off"""
REPETITION = 15
PRESENCE = 16
FREQUENCY = 17
"""Float bits of the three penalties; neutral: 1, 0, 0."""

ROW_INTS = 32
"""Width of the matrix: 128 bytes a row."""
MAX_BIASES = 1024
MAX_MASKS = 128
"""64 stop_token_ids of a request, and at most 64 eos ids of a model (models/config_values.py refuses more)."""
SEEN_IN_PROMPT = -(1 << 31)
"""Sign bit of a token count: the token is in the prompt. The other bits count its occurrences in the output."""
