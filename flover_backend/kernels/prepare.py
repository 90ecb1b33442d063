"""What each token of an iteration is, from row state and the plan's chunks: the first step of a GPU iteration.

The Triton-lang kernel is kernels/gpu/prepare.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from flover_backend.kernels.row_layout import FINISH_AT, FINISHED, LAST_TOKEN, NUM_TOKENS

FROM_STATE = -1
"""Token id of a token that row state knows: the row's last one."""


@dataclass(frozen=True, slots=True)
class PreparedTokens:
    """T tokens, decoding rows first; all on the device."""

    input_ids: torch.Tensor
    """[T] int32"""
    positions: torch.Tensor
    """[T] int32"""
    slot_mapping: torch.Tensor
    """[T] int64; slot 0 of the null block for padding and for rows that are finished"""
    token_rows: torch.Tensor
    """[T] int32, row of the block table"""
    decode_lens: torch.Tensor
    """[T] int32: tokens that a decoding token sees, itself included; 0 for every other token"""

    @classmethod
    def empty(cls, num_tokens: int, device: torch.device) -> PreparedTokens:
        """Room for `num_tokens`.

        Each vector begins at 16 bytes, whatever their length: Triton compiles kernels anew for pointers that do not,
        and would for the first large prompt of an odd length.
        """
        ints = torch.empty((4, -(-num_tokens // 4) * 4), dtype=torch.int32, device=device)[:, :num_tokens]
        slots = torch.empty(num_tokens, dtype=torch.int64, device=device)
        return cls(ints[0], ints[1], slots, ints[2], ints[3])


def prepare_reference(
    token_rows: torch.Tensor,
    token_ids: torch.Tensor,
    token_positions: torch.Tensor,
    state: torch.Tensor,
    block_table: torch.Tensor,
    block_size: int,
) -> PreparedTokens:
    """[T] rows, ids (`FROM_STATE`: the row's last token) and positions -> what the iteration computes.

    state [R, ROW_INTS] int32, block_table [R, max_blocks] int32.
    """
    rows = token_rows.long()
    facts = state[rows]
    is_chunk = token_ids != FROM_STATE
    is_live = (facts[:, FINISH_AT] > 0) & (facts[:, FINISHED] == 0)
    positions = torch.where(is_chunk, token_positions, facts[:, NUM_TOKENS] - 1)
    blocks = block_table[rows, (positions // block_size).long()].long()
    slots = torch.where(is_chunk | is_live, blocks * block_size + positions % block_size, 0)
    return PreparedTokens(
        torch.where(is_chunk, token_ids, facts[:, LAST_TOKEN]),
        positions,
        slots,
        token_rows,
        torch.where(is_live & ~is_chunk, positions + 1, 0).int(),
    )
