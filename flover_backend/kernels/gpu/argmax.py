"""The most likely token of each row: exact, ties to the lowest id. Knows logits only.

A row's vocabulary is split over programs so that one row fills the chip; each leaves its best, and the program of a
row that comes last picks the row's. (The pattern of CUDA's threadFenceReduction sample.) NaN counts as the least
logit, so that a row of NaN gets token 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from flover_backend.kernels.gpu.dependent_launch import let_next_start, overlap, wait_for_previous

_MIN_BLOCK = 1024


@dataclass(frozen=True, slots=True)
class ArgmaxScratch:
    """What the programs of a row leave for the last of them; one launch at a time may use it."""

    values: torch.Tensor
    """[max_rows, parts] float32"""
    ids: torch.Tensor
    """[max_rows, parts] int32"""
    arrived: torch.Tensor
    """[max_rows] int32, zero between launches"""

    @classmethod
    def allocate(cls, max_rows: int, vocab_size: int, device: torch.device) -> ArgmaxScratch:
        """For at most `max_rows` rows of `vocab_size` logits."""
        parts = triton.cdiv(vocab_size, _MIN_BLOCK)
        return cls(
            torch.empty((max_rows, parts), dtype=torch.float32, device=device),
            torch.empty((max_rows, parts), dtype=torch.int32, device=device),
            torch.zeros(max_rows, dtype=torch.int32, device=device),
        )


def argmax_reference(logits: torch.Tensor, out: torch.Tensor) -> None:
    """What `argmax` computes: [S, V] -> out [S] int32."""
    values = torch.where(logits.isnan(), -torch.inf, logits.float())
    out.copy_((values == values.amax(1, keepdim=True)).int().argmax(1))


def argmax(logits: torch.Tensor, out: torch.Tensor, scratch: ArgmaxScratch) -> None:
    """logits [S, V] fp16, bf16 or fp32, rows contiguous; out [S] int32: the first id of each row's largest logit."""
    num_rows, vocab_size = logits.shape
    if logits.stride(1) != 1 or out.shape != (num_rows,) or out.dtype != torch.int32 or not out.is_contiguous():
        raise ValueError(f"argmax of {tuple(logits.shape)} strides {logits.stride()} into {out.dtype} {out.shape}")
    block, num_warps = blocking(num_rows)
    parts = triton.cdiv(vocab_size, block)
    if num_rows > scratch.values.shape[0] or parts > scratch.values.shape[1]:
        raise ValueError(f"scratch {tuple(scratch.values.shape)} is too small for {num_rows} rows of {parts} parts")
    _argmax_kernel[(parts, num_rows)](
        logits,
        out,
        scratch.values,
        scratch.ids,
        scratch.arrived,
        vocab_size,
        logits.stride(0),
        scratch.values.stride(0),
        BLOCK=block,
        PARTS=triton.next_power_of_2(parts),
        num_warps=num_warps,
        **overlap(logits.device),
    )


def blocking(num_rows: int) -> tuple[int, int]:
    """Logits of a program and its warps: enough programs for the chip, and then as few as possible."""
    if num_rows <= 2:
        return _MIN_BLOCK, 4
    return (4096, 4) if num_rows <= 64 else (8192, 8)


@triton.jit
def _argmax_kernel(
    logits,
    out,
    values,
    ids,
    arrived,
    vocab_size,
    row_stride,
    scratch_stride,
    BLOCK: tl.constexpr,
    PARTS: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    part = tl.program_id(0)
    row = tl.program_id(1)
    num_parts = tl.num_programs(0)
    wait_for_previous(OVERLAP)
    let_next_start(OVERLAP)
    index = part * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(logits + row.to(tl.int64) * row_stride + index, mask=index < vocab_size, other=float("-inf"))
    x = x.to(tl.float32)
    x = tl.where(x == x, x, float("-inf"))  # noqa: PLR0124
    best, place = tl.max(x, axis=0, return_indices=True)
    tl.store(values + row * scratch_stride + part, best)
    tl.store(ids + row * scratch_stride + part, part * BLOCK + place)
    tl.debug_barrier()
    if tl.atomic_add(arrived + row, 1) == num_parts - 1:
        parts = tl.arange(0, PARTS)
        # .cg: never from this multiprocessor's own cache, which does not see the others' writes
        found = tl.load(
            values + row * scratch_stride + parts, mask=parts < num_parts, other=float("-inf"), cache_modifier=".cg"
        )
        _, winner = tl.max(found, axis=0, return_indices=True)
        tl.store(out + row, tl.load(ids + row * scratch_stride + winner, cache_modifier=".cg"))
        tl.store(arrived + row, 0)
