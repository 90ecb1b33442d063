"""How a product of few rows is cut for an H200. Numbers from measurements; kernels/gpu/matmul.py computes it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

_MAX_ROWS = 64
# Two programs on each of 132 multiprocessors, of 227 KiB of shared memory each.
_RESIDENT_PROGRAMS = 264
_SHARED_BYTES = 110 << 10


@dataclass(frozen=True, slots=True)
class SkinnyConfig:
    """How one product is cut. `block_m` rows of x (a power of two, at least 8) are computed, M of them stored."""

    block_m: int
    block_n: int
    """Rows of w in a program; of a gated product, half of them gate and half up."""
    block_k: int
    splits: int
    """Programs that share a tile's K"""
    num_warps: int
    num_stages: int
    prefetch: int
    """Pieces of 128 elements of each of its rows of w that a program asks for before it waits."""
    trigger: int
    """Steps over K left when the next kernel may start."""
    tma: bool = False
    """Read w by the bulk tensor copy engine instead of each thread's own copies."""


def supports(m: int, n: int, k: int, dtype: torch.dtype) -> bool:
    """Whether `skinny_matmul` takes [m, k] @ [n, k].T. Everything else belongs to torch."""
    return 1 <= m <= _MAX_ROWS and dtype in (torch.float16, torch.bfloat16) and k % 64 == 0 and n >= 64 and n % 16 == 0


def config_for(m: int, n: int, k: int, *, gated: bool = False) -> SkinnyConfig:
    """The configuration of a shape: as many programs as are resident at once, and no second, half-empty round."""
    block_m = max(8, 1 << (m - 1).bit_length())
    block_n = 128 if gated or block_m >= 32 else 64
    block_k = 128 if block_n == 64 and k % 128 == 0 else 64
    tiles, steps = -(-n // block_n), k // block_k
    splits = 1 if gated else max(1, min(_RESIDENT_PROGRAMS // tiles, steps // 4, 8))
    num_stages = min(6, _SHARED_BYTES // ((block_n + block_m) * block_k * 2))
    prefetch = 4 if k // splits >= 2 * 128 + block_k else 0
    return SkinnyConfig(block_m, block_n, block_k, splits, 4, num_stages, prefetch, trigger=1024 // block_k)


def safe_gain_scale(norm_weight: torch.Tensor) -> float:
    """The power of two, at most 1, that brings the weight's elements to at most 1. Waits for the device: once a weight.

    The product takes x * norm_weight before it knows the norm: in float16 that could overflow where x does not.
    """
    largest = norm_weight.abs().max().item()
    return 1.0 if largest <= 1 else 2.0 ** -math.ceil(math.log2(largest))
