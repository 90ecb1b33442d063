"""Chooses the next token of every row on the device, each row by its own parameters, read from its state.

Two launches. The first, many programs a row: penalties, biases and masks for the rows that have them, then each
part's best logit and sum of weights. The second, one program a row: from those the best token (temperature 0) or the
part that the random number falls into, and the token there; only rows with top_k, top_p or min_p look at the whole
row again. Arithmetic and order as in `kernels/sampling.py` and `engine/sampler.py`; a row whose logits hold NaN or
infinities gets some token of the vocabulary, NaN counting as the least logit and infinities as the outermost finite.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from flover_backend.kernels import row_layout as layout
from flover_backend.kernels.gpu import row_fields as f
from flover_backend.kernels.gpu.dependent_launch import overlap, wait_for_previous
from flover_backend.kernels.gpu.sampling_floors import CAPACITY, find_floor
from flover_backend.kernels.gpu.sampling_weights import (
    GROUP,
    clamped_temperature,
    finite,
    load_logits,
    uniform,
    weights,
)

_CHUNK = 4096
_TILE = 8192
_MASKED_LOGIT = tl.constexpr(-3.4028234663852886e38)
_COUNT_BITS = tl.constexpr(0x7FFFFFFF)
_LIST_BLOCK = tl.constexpr(128)


@dataclass(frozen=True, slots=True)
class SamplingScratch:
    """Between the two launches; one call at a time may use it."""

    processed: torch.Tensor
    """[max_rows, V] float32: logits of the rows that have penalties, biases or masks"""
    maxima: torch.Tensor
    """[max_rows, parts] float32"""
    ids: torch.Tensor
    """[max_rows, parts] int32"""
    sums: torch.Tensor
    """[max_rows, parts] float64, of weights relative to the part's maximum"""
    candidates: torch.Tensor
    """[max_rows, CAPACITY] float32"""

    @classmethod
    def allocate(cls, max_rows: int, vocab_size: int, device: torch.device) -> SamplingScratch:
        """For at most `max_rows` rows of exactly `vocab_size` logits."""
        parts = triton.cdiv(vocab_size, _CHUNK)

        def empty(width: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return torch.empty((max_rows, width), dtype=dtype, device=device)

        return cls(
            empty(vocab_size), empty(parts), empty(parts, torch.int32), empty(parts, torch.float64),
            empty(CAPACITY.value),
        )  # fmt: skip


def sample(
    logits: torch.Tensor,
    rows: torch.Tensor,
    state: torch.Tensor,
    bias_ids: torch.Tensor,
    bias_values: torch.Tensor,
    mask_ids: torch.Tensor,
    counts: torch.Tensor,
    scratch: SamplingScratch,
    out: torch.Tensor,
) -> None:
    """One token for each of `rows`; changes nothing but `scratch` and `out`.

    logits [S, V] fp16, bf16 or fp32, rows contiguous; rows, out [S] int32; state and tables as in `row_layout`;
    counts [slots, V] int32, read where PENALTY_SLOT >= 0. Ids of a row's biases differ from each other.
    """
    num_rows, vocab_size = logits.shape
    _check(logits, rows, state, counts, scratch, out)
    parts = triton.cdiv(vocab_size, _CHUNK)
    _statistics_kernel[(parts, num_rows)](
        logits,
        rows,
        state,
        bias_ids,
        bias_values,
        mask_ids,
        counts,
        scratch.processed,
        scratch.maxima,
        scratch.ids,
        scratch.sums,
        vocab_size,
        logits.stride(0),
        CHUNK=_CHUNK,
        num_warps=8,
        enable_fp_fusion=False,
        **overlap(logits.device),
    )
    _choose_kernel[(num_rows,)](
        logits,
        rows,
        state,
        scratch.processed,
        scratch.maxima,
        scratch.ids,
        scratch.sums,
        scratch.candidates,
        out,
        vocab_size,
        logits.stride(0),
        CHUNK=_CHUNK,
        PARTS=triton.next_power_of_2(parts),
        TILE=_TILE,
        TILES=triton.next_power_of_2(triton.cdiv(vocab_size, _TILE)),
        num_warps=choose_warps(num_rows),
        enable_fp_fusion=False,
        **overlap(logits.device),
    )


def choose_warps(num_rows: int) -> int:
    """Warps of the program that chooses a row's token: all of a multiprocessor's while rows are few."""
    return 32 if num_rows <= 132 else 16


def _check(
    logits: torch.Tensor,
    rows: torch.Tensor,
    state: torch.Tensor,
    counts: torch.Tensor,
    scratch: SamplingScratch,
    out: torch.Tensor,
) -> None:
    num_rows, vocab_size = logits.shape
    if logits.stride(1) != 1 or counts.shape[1] != vocab_size or not counts.is_contiguous():
        raise ValueError(f"logits {tuple(logits.shape)} strides {logits.stride()}, counts {tuple(counts.shape)}")
    if any(v.dtype != torch.int32 or v.shape != (num_rows,) or not v.is_contiguous() for v in (rows, out)):
        raise ValueError(f"rows and out must be int32 vectors of {num_rows}: {rows.shape}, {out.shape}")
    if state.shape[1:] != (layout.ROW_INTS,) or not state.is_contiguous():
        raise ValueError(f"row state of shape {tuple(state.shape)}, strides {state.stride()}")
    if num_rows > scratch.processed.shape[0] or vocab_size != scratch.processed.shape[1]:
        raise ValueError(f"scratch is for {tuple(scratch.processed.shape)} logits, not {tuple(logits.shape)}")


@triton.jit
def _is_masked(row_state):
    """Whether the tokens that would end the row are masked."""
    is_short = tl.load(row_state + f.NUM_TOKENS) < tl.load(row_state + f.MASKED_UNTIL)
    return is_short & (tl.load(row_state + f.NUM_MASKS) > 0)


@triton.jit
def _is_processed(row_state):
    """Whether the row's logits are changed before anything is chosen."""
    has_lists = (tl.load(row_state + f.NUM_BIASES) > 0) | _is_masked(row_state)
    return (tl.load(row_state + f.PENALTY_SLOT) >= 0) | has_lists


@triton.jit
def _penalize(x, row_state, counts, index, vocab_size):
    """`kernels.sampling.penalize_` for logits `x` at `index`."""
    slot = tl.load(row_state + f.PENALTY_SLOT).to(tl.int64)
    if slot >= 0:
        seen = tl.load(counts + slot * vocab_size + index, mask=index < vocab_size, other=0)
        count = seen & _COUNT_BITS
        repetition = f.float_field(row_state, f.REPETITION)
        value = tl.where(x > 0, tl.div_rn(x, repetition), x * repetition)
        value = value - f.float_field(row_state, f.FREQUENCY) * count.to(tl.float32)
        value = value - tl.where(count > 0, f.float_field(row_state, f.PRESENCE), 0.0)
        x = tl.where(seen != 0, finite(value), x)
    return x


@triton.jit
def _apply_lists(processed, row, row_state, bias_ids, bias_values, mask_ids, start, CHUNK: tl.constexpr):
    """Biases, then masks, of the row's logits start .. start + CHUNK - 1 in `processed`."""
    num_biases = tl.load(row_state + f.NUM_BIASES)
    for first in range(0, num_biases, _LIST_BLOCK):
        entry = first + tl.arange(0, _LIST_BLOCK)
        token = tl.load(bias_ids + row * f.MAX_BIASES + entry, mask=entry < num_biases, other=-1)
        ours = (token >= start) & (token < start + CHUNK)
        bias = tl.load(bias_values + row * f.MAX_BIASES + entry, mask=ours, other=0.0)
        value = tl.load(processed + token, mask=ours, other=0.0)
        tl.store(processed + token, value + bias, mask=ours)
    tl.debug_barrier()  # masks overwrite what biases wrote
    if _is_masked(row_state):
        entry = tl.arange(0, f.MAX_MASKS)
        inside = entry < tl.load(row_state + f.NUM_MASKS)
        token = tl.load(mask_ids + row * f.MAX_MASKS + entry, mask=inside, other=-1)
        tl.store(processed + token, _MASKED_LOGIT, mask=(token >= start) & (token < start + CHUNK))
    tl.debug_barrier()


@triton.jit
def _statistics_kernel(
    logits,
    rows,
    state,
    bias_ids,
    bias_values,
    mask_ids,
    counts,
    processed,
    maxima,
    ids,
    sums,
    vocab_size,
    row_stride,
    CHUNK: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    part = tl.program_id(0)
    place = tl.program_id(1).to(tl.int64)
    wait_for_previous(OVERLAP)
    row = tl.load(rows + place).to(tl.int64)
    row_state = state + row * f.ROW_INTS
    processed += place * vocab_size
    start = part * CHUNK
    index = start + tl.arange(0, CHUNK)
    inside = index < vocab_size
    x = finite(tl.load(logits + place * row_stride + index, mask=inside, other=0.0).to(tl.float32))
    if _is_processed(row_state):
        x = _penalize(x, row_state, counts, index, vocab_size)
        tl.store(processed + index, x, mask=inside)
        tl.debug_barrier()  # lists are read by other threads than wrote the logits
        _apply_lists(processed, row, row_state, bias_ids, bias_values, mask_ids, start, CHUNK)
        x = tl.load(processed + index, mask=inside, other=0.0)
    x = tl.where(inside, x, float("-inf"))
    best, where = tl.max(x, axis=0, return_indices=True)
    entry = place * tl.num_programs(0) + part
    tl.store(maxima + entry, best)
    tl.store(ids + entry, start + where)
    temperature = f.float_field(row_state, f.TEMPERATURE)
    if temperature > 0:
        weight = weights(x, best, clamped_temperature(temperature))
        groups = tl.sum(tl.reshape(weight, [CHUNK // GROUP, GROUP]), axis=1)
        tl.store(sums + entry, tl.sum(groups.to(tl.float64)))


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
def _draw(logits, processed, is_processed, vocab_size, top, temperature, floor, masses, point, PART: tl.constexpr):
    """The token at `point` (float64 in 0 .. 1) of the row's cumulative weights, of those that reach `floor`.

    masses: [N] float64, the sums of the kept weights of PART ids each.
    """
    target = point * tl.sum(masses)
    part, before = _holder(masses, 0.0, target)
    start = part * PART
    index = start + tl.arange(0, PART // GROUP)[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    weight = weights(load_logits(logits, processed, is_processed, index, vocab_size), top, temperature)
    groups = tl.sum(tl.where(weight >= floor, weight, 0.0), axis=1).to(tl.float64)
    group, before = _holder(groups, before, target)
    index = start + group * GROUP + tl.arange(0, GROUP)
    weight = weights(load_logits(logits, processed, is_processed, index, vocab_size), top, temperature)
    chosen, _ = _holder(tl.where(weight >= floor, weight, 0.0).to(tl.float64), before, target)
    return tl.minimum(start + group * GROUP + chosen, vocab_size - 1)


@triton.jit
def _kept_masses(
    logits, processed, is_processed, vocab_size, top, temperature, floor, TILE: tl.constexpr, TILES: tl.constexpr
):
    """[TILES] float64: the sums of the weights that reach `floor`, of TILE ids each."""
    tile = tl.arange(0, TILES)
    masses = tl.full([TILES], 0.0, tl.float64)
    for start in range(0, vocab_size, TILE):
        index = start + tl.arange(0, TILE // GROUP)[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
        weight = weights(load_logits(logits, processed, is_processed, index, vocab_size), top, temperature)
        groups = tl.sum(tl.where(weight >= floor, weight, 0.0), axis=1)
        masses = tl.where(tile == start // TILE, tl.sum(groups.to(tl.float64)), masses)
    return masses


@triton.jit
def _choose_kernel(
    logits,
    rows,
    state,
    processed,
    maxima,
    ids,
    sums,
    candidates,
    out,
    vocab_size,
    row_stride,
    CHUNK: tl.constexpr,
    PARTS: tl.constexpr,
    TILE: tl.constexpr,
    TILES: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    place = tl.program_id(0).to(tl.int64)
    wait_for_previous(OVERLAP)
    row_state = state + tl.load(rows + place).to(tl.int64) * f.ROW_INTS
    parts = tl.arange(0, PARTS)
    num_parts = tl.cdiv(vocab_size, CHUNK)
    entry = place * num_parts + parts
    maximum = tl.load(maxima + entry, mask=parts < num_parts, other=float("-inf"))
    top, best = tl.max(maximum, axis=0, return_indices=True)
    token = tl.load(ids + place * num_parts + best)
    temperature = f.float_field(row_state, f.TEMPERATURE)
    if temperature > 0:
        temperature = clamped_temperature(temperature)
        logits += place * row_stride
        processed += place * vocab_size
        candidates += place * CAPACITY
        is_processed = _is_processed(row_state).to(tl.int32)
        seed_low, seed_high = tl.load(row_state + f.SEED_LOW), tl.load(row_state + f.SEED_HIGH)
        point = uniform(seed_low, seed_high, tl.load(row_state + f.NUM_TOKENS))
        distance = tl.maximum((maximum - top).to(tl.float64) / temperature.to(tl.float64), -200.0)
        factor = tl.where(distance > -104.0, tl.exp(distance), 0.0)
        masses = tl.load(sums + entry, mask=parts < num_parts, other=0.0) * factor
        top_k = tl.load(row_state + f.TOP_K)
        top_p = f.float_field(row_state, f.TOP_P)
        min_p = f.float_field(row_state, f.MIN_P)
        limited = (top_k > 0) & (top_k < vocab_size)
        if limited | (top_p < 1) | (min_p > 0):
            floor = tl.full([], 0, tl.int32)
            number = vocab_size
            mass = tl.sum(masses)
            for by_sum in range(2):
                if (limited & (by_sum == 0)) | ((top_p < 1) & (by_sum == 1)):
                    wanted = tl.where(by_sum == 0, top_k.to(tl.float64), top_p.to(tl.float64) * mass)
                    floor, number, mass = find_floor(
                        logits, processed, is_processed, vocab_size, top, temperature, candidates,
                        wanted, by_sum == 0, floor, number, mass, TILE,
                    )  # fmt: skip
            lowest = tl.maximum(floor.to(tl.float32, bitcast=True), min_p)
            kept = _kept_masses(logits, processed, is_processed, vocab_size, top, temperature, lowest, TILE, TILES)
            token = _draw(logits, processed, is_processed, vocab_size, top, temperature, lowest, kept, point, TILE)
        else:
            token = _draw(logits, processed, is_processed, vocab_size, top, temperature, 0.0, masses, point, CHUNK)
    tl.store(out + place, token)
