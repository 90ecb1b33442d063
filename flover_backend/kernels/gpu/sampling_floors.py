"""The lowest weight that top_k and top_p keep in a row, without sorting: a selection by one program.

Weights in 0 .. 1 are in order as the bits of their floats, so a threshold is an int in LOW .. HIGH - 1: the largest for
which the weights at or above it measure (by number for top_k, by sum for top_p) at least what is wanted. A sample of
the row guesses an interval around it, a pass over the row measures the guess, until few weights are left in the
interval (Floyd and Rivest, "Expected time bounds for selection", 1975); those are gathered and bisected. Where
samples do not help (most weights equal), the interval is halved twice a pass, which ends after 15.
"""

from __future__ import annotations

import triton
import triton.language as tl

from flover_backend.kernels.gpu.sampling_weights import GROUP, load_logits, weights

CAPACITY = tl.constexpr(4096)
"""Weights that are few enough to be gathered"""
_SAMPLE = tl.constexpr(4096)
_RUN = tl.constexpr(8)
"""Neighbours that are sampled together"""
_SAMPLED_ROUNDS = tl.constexpr(3)
_SEARCH_STEPS = tl.constexpr(16)


@triton.jit
def _bits(weight):
    return weight.to(tl.int32, bitcast=True)


@triton.jit
def tile_weights(logits, processed, is_processed, start, vocab_size, top, temperature, TILE: tl.constexpr):
    """[TILE / GROUP, GROUP] weights from `start`."""
    index = start + tl.arange(0, TILE // GROUP)[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    return weights(load_logits(logits, processed, is_processed, index, vocab_size), top, temperature)


@triton.jit
def _guess(logits, processed, is_processed, vocab_size, top, temperature, low, high, by_count, share):
    """Three thresholds inside low .. high: around the one that has `share` of the interval's measure above it, and
    one above which there are a 64th of the interval's weights."""
    element = tl.arange(0, _SAMPLE)
    index = (element // _RUN) * (vocab_size // (_SAMPLE // _RUN)) + element % _RUN
    weight = weights(load_logits(logits, processed, is_processed, index, vocab_size), top, temperature)
    bits = _bits(weight)
    inside = (bits >= low) & (bits < high)
    measure = tl.where(inside, tl.where(by_count, 1.0, weight), 0.0)
    number = tl.sum(inside.to(tl.float32))
    total = tl.maximum(tl.sum(measure), 1e-30)
    deviation = 1.5 * tl.sqrt(tl.sum(measure * measure)) / total
    which = tl.arange(0, 4)
    wanted = tl.where(which == 0, share + deviation, share - deviation) * total
    wanted = tl.where(which < 2, wanted, number / 64 + 4)
    measures = tl.where(which[None, :] < 2, measure[:, None], inside.to(tl.float32)[:, None])
    least = tl.full([4], 0, tl.int32) + low
    most = tl.full([4], 0, tl.int32) + high
    for _ in range(_SEARCH_STEPS):
        middle = least + (most - least) // 2
        enough = tl.sum(tl.where(bits[:, None] >= middle[None, :], measures, 0.0), axis=0) >= wanted
        least = tl.where(enough, middle, least)
        most = tl.where(enough, most, middle)
    first = tl.sum(tl.where(which == 0, least, 0))
    second = tl.sum(tl.where(which == 1, least, 0))
    third = tl.sum(tl.where(which == 2, least, 0))
    return first, second, third


@triton.jit
def _between(threshold, low, high):
    return tl.minimum(tl.maximum(threshold, low + 1), high - 1)


@triton.jit
def _count(weight, threshold):
    """[N, GROUP] -> [N] int32: how many are at or above."""
    return tl.sum((_bits(weight) >= threshold).to(tl.int32), axis=1)


@triton.jit
def _mass(weight, threshold):
    """[N, GROUP] -> [N] float64: their sum."""
    return tl.sum(tl.where(_bits(weight) >= threshold, weight, 0.0), axis=1).to(tl.float64)


@triton.jit
def _measure(logits, processed, is_processed, vocab_size, top, temperature, first, second, third, TILE: tl.constexpr):
    """One pass over the row: the numbers of weights at or above three thresholds, and their sums."""
    numbers_1 = tl.full([TILE // GROUP], 0, tl.int32)
    numbers_2 = tl.full([TILE // GROUP], 0, tl.int32)
    numbers_3 = tl.full([TILE // GROUP], 0, tl.int32)
    masses_1 = tl.full([TILE // GROUP], 0.0, tl.float64)
    masses_2 = tl.full([TILE // GROUP], 0.0, tl.float64)
    masses_3 = tl.full([TILE // GROUP], 0.0, tl.float64)
    for start in range(0, vocab_size, TILE):
        weight = tile_weights(logits, processed, is_processed, start, vocab_size, top, temperature, TILE)
        numbers_1 += _count(weight, first)
        numbers_2 += _count(weight, second)
        numbers_3 += _count(weight, third)
        masses_1 += _mass(weight, first)
        masses_2 += _mass(weight, second)
        masses_3 += _mass(weight, third)
    return (
        tl.sum(numbers_1), tl.sum(numbers_2), tl.sum(numbers_3),
        tl.sum(masses_1), tl.sum(masses_2), tl.sum(masses_3),
    )  # fmt: skip


@triton.jit
def _narrow(wanted, by_count, threshold, number, mass, low, high, low_number, low_mass, high_number, high_mass):
    """The interval after `threshold` was measured."""
    enough = tl.where(by_count, number.to(tl.float64), mass) >= wanted
    raises = enough & (threshold > low)
    lowers = (enough == 0) & (threshold < high)
    low = tl.where(raises, threshold, low)
    low_number = tl.where(raises, number, low_number)
    low_mass = tl.where(raises, mass, low_mass)
    high = tl.where(lowers, threshold, high)
    high_number = tl.where(lowers, number, high_number)
    high_mass = tl.where(lowers, mass, high_mass)
    return low, high, low_number, low_mass, high_number, high_mass


@triton.jit
def _gather(
    logits,
    processed,
    is_processed,
    vocab_size,
    top,
    temperature,
    low,
    high,
    candidates,
    candidate_ids,
    TILE: tl.constexpr,
):
    """The weights inside low .. high and their ids, in the order of ids; returns how many there are."""
    found = 0
    for start in range(0, vocab_size, TILE):
        weight = tile_weights(logits, processed, is_processed, start, vocab_size, top, temperature, TILE)
        inside = ((_bits(weight) >= low) & (_bits(weight) < high)).to(tl.int32)
        in_groups = tl.sum(inside, axis=1)
        number = tl.sum(in_groups)
        if number > 0:
            before = tl.cumsum(in_groups, axis=0) - in_groups
            place = found + before[:, None] + tl.cumsum(inside, axis=1) - inside
            fits = (inside != 0) & (place < CAPACITY)
            index = start + tl.arange(0, TILE // GROUP)[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
            tl.store(candidates + place, weight, mask=fits)
            tl.store(candidate_ids + place, index, mask=fits)
        found += number
    tl.debug_barrier()  # every thread sees what the others gathered
    return tl.minimum(found, CAPACITY)


@triton.jit
def find_floor(
    logits,
    processed,
    is_processed,
    vocab_size,
    top,
    temperature,
    candidates,
    candidate_ids,
    gathered,
    wanted,
    by_count,
    low,
    low_number,
    low_mass,
    TILE: tl.constexpr,
):
    """The largest threshold from `low` up that measures `wanted` (float64): (threshold, number, mass, gathered).

    At or above `low` there are `low_number` weights of sum `low_mass`, and they measure at least `wanted`. `gathered`
    > 0: so many candidates are in place and hold all weights at or above `low`; returned so for the new threshold.
    """
    high = tl.full([], 0x3F800001, tl.int32)
    high_number = tl.full([], 0, tl.int32)
    high_mass = tl.full([], 0.0, tl.float64)
    rounds = 0
    while (low_number - high_number > CAPACITY) & (high - low > 1):
        if rounds < _SAMPLED_ROUNDS:
            below = tl.where(by_count, low_number.to(tl.float64), low_mass)
            above = tl.where(by_count, high_number.to(tl.float64), high_mass)
            share = ((wanted - above) / (below - above)).to(tl.float32)
            first, second, third = _guess(
                logits, processed, is_processed, vocab_size, top, temperature, low, high, by_count, share
            )
        else:
            first = low + (high - low) // 4
            second = low + (high - low) // 2
            third = high - (high - low) // 4
        first, second, third = _between(first, low, high), _between(second, low, high), _between(third, low, high)
        number_1, number_2, number_3, mass_1, mass_2, mass_3 = _measure(
            logits, processed, is_processed, vocab_size, top, temperature, first, second, third, TILE
        )
        low, high, low_number, low_mass, high_number, high_mass = _narrow(
            wanted, by_count, first, number_1, mass_1,
            low, high, low_number, low_mass, high_number, high_mass,
        )  # fmt: skip
        low, high, low_number, low_mass, high_number, high_mass = _narrow(
            wanted, by_count, second, number_2, mass_2,
            low, high, low_number, low_mass, high_number, high_mass,
        )  # fmt: skip
        low, high, low_number, low_mass, high_number, high_mass = _narrow(
            wanted, by_count, third, number_3, mass_3,
            low, high, low_number, low_mass, high_number, high_mass,
        )  # fmt: skip
        rounds += 1
    if high - low > 1:
        if gathered == 0:
            gathered = _gather(
                logits,
                processed,
                is_processed,
                vocab_size,
                top,
                temperature,
                low,
                high,
                candidates,
                candidate_ids,
                TILE,
            )
        place = tl.arange(0, CAPACITY)
        weight = tl.load(candidates + place, mask=place < gathered, other=0.0)
        bits = tl.where(place < gathered, _bits(weight), -1)
        mass = weight.to(tl.float64)
        measure = tl.where(by_count, 1.0, mass)
        above = tl.where(by_count, high_number.to(tl.float64), high_mass)
        while high - low > 1:
            middle = low + (high - low) // 2
            enough = above + tl.sum(tl.where(bits >= middle, measure, 0.0)) >= wanted
            low = tl.where(enough, middle, low)
            high = tl.where(enough, high, middle)
        low_number = high_number + tl.sum((bits >= low).to(tl.int32))
        low_mass = high_mass + tl.sum(tl.where(bits >= low, mass, 0.0))
        gathered = tl.where(high_number == 0, gathered, 0)
        tl.debug_barrier()  # the next floor's candidates may go to the same place
    return low, low_number, low_mass, gathered
