"""x @ w.T for 1 to 64 rows of x, where reading w is all the work: closer to the memory's rate than cuBLAS.

A program owns BLOCK_N rows of w, or a share of their K when N alone gives too few programs for the chip. The product is
computed transposed, w @ x.T, so that the many rows of w fill the matrix unit's long side and x's few rows its short
one. Before it waits for the kernel before it, a program asks for the first bytes of its weights: the memory then works
while the previous kernel ends. Shares of K are added by whichever program of a tile comes last, always in their order,
so that results never depend on timing. Knows nothing of layers; anything it does not support is torch's affair.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from flover_backend.kernels.gpu.activation import silu_times
from flover_backend.kernels.gpu.dependent_launch import overlap, wait_for_previous
from flover_backend.kernels.gpu.skinny_config import SkinnyConfig, config_for, has_room, pays, supports

__all__ = [
    "SkinnyConfig",
    "Workspace",
    "config_for",
    "has_room",
    "pays",
    "skinny_matmul",
    "skinny_matmul_reference",
    "supports",
]

_PREFETCHED_ELEMENTS: tl.constexpr = tl.constexpr(128)


class Workspace:
    """Scratch of products with shared K; one at a time may use it. Counters are 0 between products."""

    def __init__(self, device: torch.device, num_floats: int = 4 << 20, num_tiles: int = 4096) -> None:
        self.partials = torch.empty(num_floats, dtype=torch.float32, device=device)
        self.counters = torch.zeros(num_tiles, dtype=torch.int32, device=device)


@triton.jit
def _prefetch(w, rows, K, k_begin, k_end, PIECES: tl.constexpr, OVERLAP: tl.constexpr):
    """Ask for the first PIECES * 256 bytes of each row of w's share to be brought into L2."""
    if OVERLAP and PIECES > 0:
        k = k_begin + tl.arange(0, PIECES) * _PREFETCHED_ELEMENTS
        k = tl.minimum(k, k_end - _PREFETCHED_ELEMENTS)
        addresses = (w + rows[:, None] * K + k[None, :]).to(tl.int64)
        tl.inline_asm_elementwise(
            "cp.async.bulk.prefetch.L2.global [$1], 256; mov.u32 $0, 0;",
            "=r,l",
            [addresses],
            dtype=tl.int32,
            is_pure=False,
            pack=1,
        )


@triton.jit
def _let_next_start_at_zero(count, OVERLAP: tl.constexpr):
    """`let_next_start` when count is 0, without a branch that would break the loop's pipeline."""
    if OVERLAP:
        tl.inline_asm_elementwise(
            "{ .reg .pred p; setp.eq.s32 p, $1, 0; @p griddepcontrol.launch_dependents; mov.u32 $0, 0; }",
            "=r,r",
            [count],
            dtype=tl.int32,
            is_pure=False,
            pack=1,
        )


@triton.jit
def _finish(acc, up, out, rows, columns, width, M, ADD: tl.constexpr, GATED: tl.constexpr):
    """Activate, add, store: acc [BLOCK_N, BLOCK_M] to out [M, width] transposed."""
    dtype = out.dtype.element_ty
    if GATED:
        acc = silu_times(acc.to(dtype).to(tl.float32), up.to(dtype).to(tl.float32), dtype).to(tl.float32)
    places = out + columns[None, :].to(tl.int64) * width + rows[:, None]
    mask = (columns < M)[None, :] & (rows < width)[:, None]
    if ADD:
        acc += tl.load(places, mask=mask, other=0.0).to(tl.float32)
    tl.store(places, acc.to(dtype), mask=mask)


@triton.jit
def _hand_in(acc, slot, inside, counter):
    """Put a program's share of the sums into its slot; returns how many programs of the tile did so before."""
    tl.store(slot + inside, acc)
    tl.debug_barrier()
    return tl.atomic_add(counter, 1, sem="acq_rel")


@triton.jit
def _collect(slots, splits, inside, TILE: tl.constexpr, BLOCK_M: tl.constexpr):
    """The sums of all shares of a tile, added in the order of the shares."""
    acc = tl.zeros((TILE, BLOCK_M), dtype=tl.float32)
    for share in range(splits):
        # NOTE: past L1, which does not see what other programs wrote.
        acc += tl.load(slots + share * (TILE * BLOCK_M) + inside, cache_modifier=".cg")
    return acc


@triton.jit(do_not_specialize=["M", "splits", "trigger"])
def _skinny_kernel(
    x,
    w,
    out,
    partials,
    counters,
    M,
    N,
    K,
    splits,
    trigger,
    ADD: tl.constexpr,
    GATED: tl.constexpr,
    SHARED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PREFETCH: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    HALF: tl.constexpr = 2 if GATED else 1
    TILE: tl.constexpr = BLOCK_N // HALF
    width = N // HALF
    tile, split = tl.program_id(0), 0
    first, last = 0, K // BLOCK_K
    if SHARED:
        tile, split = tl.program_id(0) // splits, tl.program_id(0) % splits
        first, last = K // BLOCK_K * split // splits, K // BLOCK_K * (split + 1) // splits
    trigger_step = tl.maximum(last - trigger, first)
    rows = tile * TILE + tl.arange(0, TILE)
    # NOTE: what is past the end reads rows that exist (nothing is masked in the loop); none of it is stored. Rows of x
    # from the first on, not the last one again and again: so many programs on one line cost a tenth of the product.
    read_rows = tl.minimum(rows, width - 1).to(tl.int64)
    _prefetch(w, read_rows, K, first * BLOCK_K, last * BLOCK_K, PREFETCH // HALF, OVERLAP)
    if GATED:
        _prefetch(w, read_rows + width, K, first * BLOCK_K, last * BLOCK_K, PREFETCH // HALF, OVERLAP)
    wait_for_previous(OVERLAP)

    columns, k = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_K)
    w_places = w + read_rows[:, None] * K + (first * BLOCK_K + k)[None, :]
    x_places = x + (columns % M)[None, :] * K + (first * BLOCK_K + k)[:, None]
    acc = tl.zeros((TILE, BLOCK_M), dtype=tl.float32)
    up = tl.zeros((TILE, BLOCK_M), dtype=tl.float32)
    for step in range(first, last):
        weights = tl.load(w_places)
        values = tl.load(x_places)
        acc = tl.dot(weights, values, acc, input_precision="ieee")
        if GATED:
            more = tl.load(w_places + width.to(tl.int64) * K)
            up = tl.dot(more, values, up, input_precision="ieee")
        _let_next_start_at_zero(step - trigger_step, OVERLAP)
        w_places += BLOCK_K
        x_places += BLOCK_K
    _let_next_start_at_zero(0, OVERLAP)

    if SHARED:
        SLOT: tl.constexpr = TILE * BLOCK_M
        slots = partials + tile * splits * SLOT
        inside = tl.arange(0, TILE)[:, None] * BLOCK_M + columns[None, :]
        if _hand_in(acc, slots + split * SLOT, inside, counters + tile) == splits - 1:
            acc = _collect(slots, splits, inside, TILE, BLOCK_M)
            _finish(acc, up, out, rows, columns, width, M, ADD, GATED)
            tl.store(counters + tile, 0)
    else:
        _finish(acc, up, out, rows, columns, width, M, ADD, GATED)


def skinny_matmul(
    x: torch.Tensor,
    w: torch.Tensor,
    out: torch.Tensor | None,
    *,
    workspace: Workspace,
    residual: torch.Tensor | None = None,
    gated: bool = False,
    config: SkinnyConfig | None = None,
) -> None:
    """out = x @ w.T, or residual += the same; x [M, K], w [N, K], both contiguous, of one dtype.

    gated: w is gate over up, and out [M, N / 2] is silu(gate) * up. residual [M, N]: added to in place, with `out`
    None; may not be x.
    """
    (m, k), n = x.shape, w.shape[0]
    target = residual if out is None else out
    assert target is not None and (out is None or residual is None)
    config = config or config_for(m, n, k, gated=gated)
    assert k % config.block_k == 0 and config.splits <= k // config.block_k and (config.splits == 1 or not gated)
    assert w.shape == (n, k) and target.shape == (m, n // 2 if gated else n) and m <= config.block_m
    assert x.dtype == w.dtype == target.dtype and x.is_contiguous() and w.is_contiguous() and target.is_contiguous()
    assert target.data_ptr() != x.data_ptr()
    tiles = triton.cdiv(n, config.block_n)
    if config.splits > 1:
        assert tiles * config.splits * config.block_n * config.block_m <= workspace.partials.numel()
        assert tiles <= workspace.counters.numel()
    _skinny_kernel[(tiles * config.splits,)](
        x,
        w,
        target,
        workspace.partials,
        workspace.counters,
        m,
        n,
        k,
        config.splits,
        config.trigger,
        ADD=residual is not None,
        GATED=gated,
        SHARED=config.splits > 1,
        BLOCK_M=config.block_m,
        BLOCK_N=config.block_n,
        BLOCK_K=config.block_k,
        PREFETCH=config.prefetch,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        **overlap(x.device),
    )


def skinny_matmul_reference(
    x: torch.Tensor,
    w: torch.Tensor,
    *,
    residual: torch.Tensor | None = None,
    gated: bool = False,
) -> torch.Tensor:
    """What `skinny_matmul` leaves in `out` or `residual`, as a new tensor."""
    product = F.linear(x, w)
    if gated:
        gate, up = product.chunk(2, dim=-1)
        product = F.silu(gate) * up
    return product if residual is None else residual + product
