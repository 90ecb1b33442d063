"""Copies whole blocks of the KV buffer in every layer, keys and values, in one launch.

Knows addresses and sizes; which block goes where is the plan's business. Reference: kv/buffer.py's `copy_blocks`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from flover_backend.kernels.gpu.dependent_launch import let_next_start, overlap, wait_for_previous

_WORDS = 4096
"""int32 words that a program copies: 16 KiB, eight 16-byte loads in flight of each of its 128 threads."""


@triton.jit
def _copy_kernel(base, offsets, pairs, BLOCK_WORDS: tl.constexpr, WORDS: tl.constexpr, OVERLAP: tl.constexpr):
    word = tl.program_id(0) * WORDS + tl.arange(0, WORDS)
    tensor = base + tl.multiple_of(tl.load(offsets + tl.program_id(1)), 4)
    wait_for_previous(OVERLAP)
    let_next_start(OVERLAP)
    source = tl.load(pairs + 2 * tl.program_id(2)).to(tl.int64)
    destination = tl.load(pairs + 2 * tl.program_id(2) + 1).to(tl.int64)
    inside = word < BLOCK_WORDS
    copied = tl.load(tensor + source * BLOCK_WORDS + word, mask=inside)
    tl.store(tensor + destination * BLOCK_WORDS + word, copied, mask=inside)


class LayerPointers:
    """Where the tensors of a KV buffer lie: made once, valid as long as they are.

    tensors: keys and values of all layers, [num_blocks + 1, ...] contiguous, of one shape, dtype and device. Addresses
    are kept as distances from the first one, in int32 words.
    """

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        first = tensors[0]
        assert all(t.is_contiguous() and t.shape == first.shape and t.dtype == first.dtype for t in tensors)
        distances = [t.data_ptr() - first.data_ptr() for t in tensors]
        assert first[0].nbytes % 16 == 0 and not any(distance % 16 for distance in distances)
        self.base = first.view(torch.int32)
        self.block_words = first[0].nbytes // 4
        self.offsets = torch.tensor(distances, device=first.device) // 4
        """[number of tensors] int64"""
        self._kept_alive = tuple(tensors)


def copy_blocks(tensors: LayerPointers, pairs: torch.Tensor, num_pairs: int) -> None:
    """Copy block pairs[i, 0] to pairs[i, 1] in every tensor, i < num_pairs <= 65535.

    pairs [>= num_pairs, 2] int32 on the device, contiguous. All copies run at once: no destination may be a source of
    another pair, nor twice a destination.
    """
    assert pairs.dtype == torch.int32 and pairs.is_contiguous() and pairs.ndim == 2 and pairs.shape[1] == 2
    assert num_pairs <= min(len(pairs), 65535)
    if num_pairs == 0:
        return
    grid = (triton.cdiv(tensors.block_words, _WORDS), len(tensors.offsets), num_pairs)
    _copy_kernel[grid](
        tensors.base,
        tensors.offsets,
        pairs,
        BLOCK_WORDS=tensors.block_words,
        WORDS=_WORDS,
        num_warps=4,
        **overlap(pairs.device),
    )
