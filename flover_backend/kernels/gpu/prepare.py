"""What each token of an iteration is: one program for 128 tokens. See kernels/prepare.py."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from flover_backend.kernels import row_layout
from flover_backend.kernels.gpu.dependent_launch import let_next_start, overlap, wait_for_previous
from flover_backend.kernels.prepare import PreparedTokens

_BLOCK = 128
_LAST_TOKEN = tl.constexpr(row_layout.LAST_TOKEN)
_NUM_TOKENS = tl.constexpr(row_layout.NUM_TOKENS)
_FINISH_AT = tl.constexpr(row_layout.FINISH_AT)
_FINISHED = tl.constexpr(row_layout.FINISHED)
_ROW_INTS = tl.constexpr(row_layout.ROW_INTS)


@triton.jit(do_not_specialize=["num_tokens"])
def _prepare(
    given_rows,
    given_ids,
    given_positions,
    state,
    block_table,
    input_ids,
    positions,
    slot_mapping,
    token_rows,
    decode_lens,
    num_tokens,
    max_blocks,
    BLOCK_SIZE: tl.constexpr,
    IS_DECODE: tl.constexpr,
    BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    wait_for_previous(OVERLAP)
    let_next_start(OVERLAP)
    t = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = t < num_tokens
    if IS_DECODE:
        row = t
        is_chunk = t < 0
        chunk_id = t
        chunk_position = t
    else:
        row = tl.load(given_rows + t, mask=inside, other=0)
        chunk_id = tl.load(given_ids + t, mask=inside, other=0)
        chunk_position = tl.load(given_positions + t, mask=inside, other=0)
        is_chunk = chunk_id >= 0
    facts = state + row * _ROW_INTS
    last_token = tl.load(facts + _LAST_TOKEN, mask=inside, other=0)
    row_tokens = tl.load(facts + _NUM_TOKENS, mask=inside, other=1)
    finish_at = tl.load(facts + _FINISH_AT, mask=inside, other=0)
    finished = tl.load(facts + _FINISHED, mask=inside, other=0)
    is_live = (finish_at > 0) & (finished == 0)
    position = tl.where(is_chunk, chunk_position, row_tokens - 1)
    writes = inside & (is_chunk | is_live)
    block = tl.load(block_table + row.to(tl.int64) * max_blocks + position // BLOCK_SIZE, mask=writes, other=0)
    slot = block.to(tl.int64) * BLOCK_SIZE + position % BLOCK_SIZE
    tl.store(input_ids + t, tl.where(is_chunk, chunk_id, last_token), mask=inside)
    tl.store(positions + t, position, mask=inside)
    tl.store(slot_mapping + t, tl.where(writes, slot, 0), mask=inside)
    tl.store(token_rows + t, row, mask=inside)
    tl.store(decode_lens + t, tl.where(is_live & (is_chunk == 0), position + 1, 0), mask=inside)


def prepare_decode(state: torch.Tensor, block_table: torch.Tensor, block_size: int, out: PreparedTokens) -> None:
    """Token t of `out` is row t's next one. state [R, ROW_INTS], block_table [R, max_blocks] int32; T <= R."""
    _launch(None, state, block_table, block_size, out)


def prepare_mixed(
    given: torch.Tensor, state: torch.Tensor, block_table: torch.Tensor, block_size: int, out: PreparedTokens
) -> None:
    """given [3, >= T] int32: row, id (`FROM_STATE`: the row's last token), position of each token of `out`."""
    _launch(given, state, block_table, block_size, out)


def _launch(
    given: torch.Tensor | None, state: torch.Tensor, block_table: torch.Tensor, block_size: int, out: PreparedTokens
) -> None:
    num_tokens = len(out.input_ids)
    rows, ids, positions = (state, state, state) if given is None else given.unbind(0)
    assert given is not None or num_tokens <= len(state)
    _prepare[(triton.cdiv(num_tokens, _BLOCK),)](
        rows,
        ids,
        positions,
        state,
        block_table,
        out.input_ids,
        out.positions,
        out.slot_mapping,
        out.token_rows,
        out.decode_lens,
        num_tokens,
        block_table.shape[1],
        BLOCK_SIZE=block_size,
        IS_DECODE=given is None,
        BLOCK=_BLOCK,
        num_warps=4,
        **overlap(state.device),
    )
