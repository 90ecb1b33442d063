"""The token at a point of a row's cumulative weights: two levels of sums find a few neighbours, then one of them."""

from __future__ import annotations

import triton
import triton.language as tl

from flover_backend.kernels.gpu.sampling_floors import CAPACITY, tile_weights
from flover_backend.kernels.gpu.sampling_weights import GROUP, load_logits, weights


@triton.jit
def _holder(masses, before, target):
    """[N] float64 in id order -> the first entry whose cumulative mass exceeds `target`, and the mass before it.

    Never an entry of mass 0, unless all are.
    """
    entry = tl.arange(0, masses.shape[0])
    ends = before + tl.cumsum(masses, axis=0)
    reached = tl.min(tl.where((ends > target) & (masses > 0), entry, masses.shape[0]), axis=0)
    last = tl.max(tl.where(masses > 0, entry, 0), axis=0)
    chosen = tl.minimum(reached, last)
    return chosen, before + tl.sum(tl.where(entry < chosen, masses, 0.0))


@triton.jit
def draw(logits, processed, is_processed, vocab_size, top, temperature, floor, masses, point, PART: tl.constexpr):
    """The token at `point` (float64 in 0 .. 1) of the row's cumulative weights, of those that reach `floor`.

    masses: [N] float64, the sums of the kept weights of PART ids each.
    """
    target = point * tl.sum(masses)
    part, before = _holder(masses, 0.0, target)
    start = part * PART
    weight = tile_weights(logits, processed, is_processed, start, vocab_size, top, temperature, PART)
    groups = tl.sum(tl.where(weight >= floor, weight, 0.0), axis=1).to(tl.float64)
    group, before = _holder(groups, before, target)
    index = start + group * GROUP + tl.arange(0, GROUP)
    weight = weights(load_logits(logits, processed, is_processed, index, vocab_size), top, temperature)
    chosen, _ = _holder(tl.where(weight >= floor, weight, 0.0).to(tl.float64), before, target)
    return tl.minimum(start + group * GROUP + chosen, vocab_size - 1)


@triton.jit
def draw_gathered(candidates, candidate_ids, gathered, floor, point):
    """The token at `point` where all weights that reach `floor` are among the row's candidates."""
    entry = tl.arange(0, CAPACITY)
    weight = tl.load(candidates + entry, mask=entry < gathered, other=0.0)
    masses = tl.where(weight >= floor, weight, 0.0).to(tl.float64)
    chosen, _ = _holder(masses, 0.0, point * tl.sum(masses))
    return tl.load(candidate_ids + chosen)


@triton.jit
def kept_masses(
    logits, processed, is_processed, vocab_size, top, temperature, floor, TILE: tl.constexpr, TILES: tl.constexpr
):
    """[TILES] float64: the sums of the weights that reach `floor`, of TILE ids each."""
    tile = tl.arange(0, TILES)
    masses = tl.full([TILES], 0.0, tl.float64)
    for start in range(0, vocab_size, TILE):
        weight = tile_weights(logits, processed, is_processed, start, vocab_size, top, temperature, TILE)
        groups = tl.sum(tl.where(weight >= floor, weight, 0.0), axis=1)
        masses = tl.where(tile == start // TILE, tl.sum(groups.to(tl.float64)), masses)
    return masses
