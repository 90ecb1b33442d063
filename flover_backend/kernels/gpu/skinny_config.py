"""How a product of few rows is cut for an H200. Numbers from measurements; kernels/gpu/matmul.py computes it."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

_MAX_ROWS = 64
_MULTIPROCESSORS = 132
_LARGE_WEIGHT = 32 << 20
_SHARED_BYTES = 220 << 10
"""Of a multiprocessor, for programs."""


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


def supports(m: int, n: int, k: int, dtype: torch.dtype) -> bool:
    """Whether `skinny_matmul` takes [m, k] @ [n, k].T. Everything else belongs to torch."""
    return 1 <= m <= _MAX_ROWS and dtype in (torch.float16, torch.bfloat16) and k % 64 == 0 and n >= 64 and n % 16 == 0


@functools.cache
def has_room(device: torch.device) -> bool:
    """Whether a multiprocessor has the shared memory that the configurations count on: Hopper's, B200's."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device)[0] in (9, 10)


def pays(m: int, n: int, k: int) -> bool:
    """Whether the product is faster than cuBLAS's: with more rows only that of a large weight."""
    return m <= 16 or n * k >= _LARGE_WEIGHT


def config_for(m: int, n: int, k: int, *, gated: bool = False) -> SkinnyConfig:
    """The configuration of a shape: as many programs as are resident at once, and no second, half-empty round.

    Up to 16 rows two programs share a multiprocessor; more rows read x often enough that one program of twice the width
    is faster, and so it is for gated products.
    """
    block_m = max(8, 1 << (m - 1).bit_length())
    wide = gated or block_m >= 32
    block_n, resident = (128, _MULTIPROCESSORS) if wide else (64, 2 * _MULTIPROCESSORS)
    block_k = 128 if k % 128 == 0 else 64
    tiles, steps = -(-n // block_n), k // block_k
    splits = 1 if gated else max(1, min(resident // tiles, steps // 4, 8))
    shared_bytes = _SHARED_BYTES // (1 if wide else 2)
    num_stages = min(4 if wide else 6, shared_bytes // ((block_n + block_m) * block_k * 2))
    prefetch = 4 if k // splits >= 2 * 128 + block_k else 0  # not much more than a program's share
    return SkinnyConfig(block_m, block_n, block_k, splits, 4, num_stages, prefetch, trigger=1024 // block_k)
