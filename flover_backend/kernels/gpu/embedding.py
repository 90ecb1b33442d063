"""The first step of an iteration: each token's embedding and its RMSNorm. Knows nothing of what follows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from flover_backend.kernels.gpu.dependent_launch import let_next_start, overlap, wait_for_previous
from flover_backend.kernels.gpu.norm import row_warps, scale_row
from flover_backend.kernels.norm import rms_norm_reference


@triton.jit
def _embed_kernel(
    input_ids,
    table,
    weight,
    residual,
    normed,
    eps,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    NORM: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    dtype = residual.dtype.element_ty
    columns = tl.arange(0, BLOCK)
    mask = columns < WIDTH
    # NOTE: in this order: decode attention reads its work list before it waits, and relies on nothing being started
    # from here on while the list is unfinished.
    wait_for_previous(OVERLAP)
    let_next_start(OVERLAP)
    row = tl.program_id(0).to(tl.int64)
    token = tl.load(input_ids + row).to(tl.int64)
    value = tl.load(table + token * WIDTH + columns, mask=mask, other=0.0)
    tl.store(residual + row * WIDTH + columns, value, mask=mask)
    if NORM:
        gain = tl.load(weight + columns, mask=mask, other=0.0)
        scaled = scale_row(value.to(tl.float32), gain, WIDTH, eps, dtype)
        tl.store(normed + row * WIDTH + columns, scaled, mask=mask)


def embed(
    input_ids: torch.Tensor,
    table: torch.Tensor,
    residual: torch.Tensor,
    *,
    weight: torch.Tensor | None = None,
    eps: float = 0.0,
    normed: torch.Tensor | None = None,
) -> None:
    """residual [T, H] = rows `input_ids` [T] int32 of `table` [V, H]; with `weight` [H], normed [T, H] = its RMSNorm.

    Ids must lie in the vocabulary: nothing checks them. One dtype, contiguous.
    """
    (num_tokens,), width = input_ids.shape, table.shape[1]
    assert input_ids.dtype == torch.int32 and table.is_contiguous() and table.dtype == residual.dtype
    assert residual.shape == (num_tokens, width) and residual.is_contiguous() and (weight is None) == (normed is None)
    assert weight is None or (weight.shape == (width,) and weight.dtype == table.dtype)
    assert normed is None or (normed.shape == residual.shape and normed.is_contiguous() and normed.dtype == table.dtype)
    if num_tokens == 0:
        return
    block = triton.next_power_of_2(width)
    _embed_kernel[(num_tokens,)](
        input_ids,
        table,
        table if weight is None else weight,
        residual,
        residual if normed is None else normed,
        eps,
        WIDTH=width,
        BLOCK=block,
        NORM=weight is not None,
        num_warps=row_warps(block),
        **overlap(table.device),
    )


def embed_reference(
    input_ids: torch.Tensor, table: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """residual and normed, each [T, H]."""
    residual = F.embedding(input_ids, table)
    return residual, rms_norm_reference(residual, weight, eps)
