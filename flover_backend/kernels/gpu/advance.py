"""What a new token changes in its row's state. The scheduler decides when a sequence ends; the flag here saves work."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from flover_backend.kernels import row_layout as layout
from flover_backend.kernels.gpu import row_fields as f
from flover_backend.kernels.gpu.dependent_launch import let_next_start, overlap, wait_for_previous

_BLOCK = 64


def advance_reference(
    tokens: torch.Tensor,
    rows: torch.Tensor,
    state: torch.Tensor,
    eos_ids: torch.Tensor,
    counts: torch.Tensor,
    out: torch.Tensor,
) -> None:
    """What `advance` computes, row after row on the host."""
    out.copy_(tokens)
    eos = set(eos_ids.tolist())
    for token, row in zip(tokens.tolist(), rows.tolist(), strict=True):
        fields = state[row].tolist()
        if fields[layout.FINISH_AT] <= 0 or fields[layout.FINISHED]:
            continue
        length = fields[layout.NUM_TOKENS] + 1
        ends = token in eos and not fields[layout.IGNORE_EOS] and length >= fields[layout.MASKED_UNTIL]
        state[row, layout.LAST_TOKEN] = token
        state[row, layout.NUM_TOKENS] = length
        state[row, layout.FINISHED] = int(ends or length >= fields[layout.FINISH_AT])
        if fields[layout.PENALTY_SLOT] >= 0:
            counts[fields[layout.PENALTY_SLOT], token] += 1


def advance(
    tokens: torch.Tensor,
    rows: torch.Tensor,
    state: torch.Tensor,
    eos_ids: torch.Tensor,
    counts: torch.Tensor,
    out: torch.Tensor,
) -> None:
    """Give each of `rows` its new token; rows that are dead (FINISH_AT 0) or FINISHED stay as they are.

    tokens, rows, out [S] int32; state [R, ROW_INTS] int32; eos_ids [E] int32, E may be 0; counts [slots, V] int32.
    Live rows differ from each other, a dead one may come often. LAST_TOKEN becomes the token, NUM_TOKENS one more;
    FINISHED 1 when the token is in eos_ids (unless IGNORE_EOS, or NUM_TOKENS has not reached MASKED_UNTIL), or when
    NUM_TOKENS reaches FINISH_AT; counts[PENALTY_SLOT, token] one more. `out` becomes `tokens`, all of them.
    """
    vectors = (tokens, rows, out)
    if any(v.dtype != torch.int32 or v.shape != tokens.shape or not v.is_contiguous() for v in vectors):
        raise ValueError(f"tokens, rows and out must be equal int32 vectors: {[(v.dtype, v.shape) for v in vectors]}")
    if state.shape[1:] != (layout.ROW_INTS,) or not state.is_contiguous():
        raise ValueError(f"row state of shape {tuple(state.shape)}, strides {state.stride()}")
    _advance_kernel[(triton.cdiv(tokens.shape[0], _BLOCK),)](
        tokens,
        rows,
        state,
        eos_ids,
        counts,
        out,
        tokens.shape[0],
        counts.stride(0),
        NUM_EOS=eos_ids.shape[0],
        BLOCK=_BLOCK,
        num_warps=2,
        **overlap(tokens.device),
    )


@triton.jit
def _advance_kernel(
    tokens,
    rows,
    state,
    eos_ids,
    counts,
    out,
    num_rows,
    counts_stride,
    NUM_EOS: tl.constexpr,
    BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    wait_for_previous(OVERLAP)
    let_next_start(OVERLAP)
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = index < num_rows
    token = tl.load(tokens + index, mask=inside, other=0)
    tl.store(out + index, token, mask=inside)
    row = state + tl.load(rows + index, mask=inside, other=0) * f.ROW_INTS
    finish_at = tl.load(row + f.FINISH_AT, mask=inside, other=0)
    finished = tl.load(row + f.FINISHED, mask=inside, other=1)
    length = tl.load(row + f.NUM_TOKENS, mask=inside, other=0) + 1
    ignore_eos = tl.load(row + f.IGNORE_EOS, mask=inside, other=1)
    masked_until = tl.load(row + f.MASKED_UNTIL, mask=inside, other=0)
    slot = tl.load(row + f.PENALTY_SLOT, mask=inside, other=-1)
    is_eos = index < 0
    for i in tl.static_range(NUM_EOS):
        is_eos = is_eos | (token == tl.load(eos_ids + i))
    ends = (is_eos & (ignore_eos == 0) & (length >= masked_until)) | (length >= finish_at)
    live = inside & (finish_at > 0) & (finished == 0)
    tl.store(row + f.LAST_TOKEN, token, mask=live)
    tl.store(row + f.NUM_TOKENS, length, mask=live)
    tl.store(row + f.FINISHED, ends.to(tl.int32), mask=live)
    counted = live & (slot >= 0)
    count = counts + slot.to(tl.int64) * counts_stride + token
    tl.store(count, tl.load(count, mask=counted, other=0) + 1, mask=counted)
