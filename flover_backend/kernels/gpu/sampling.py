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
from flover_backend.kernels.gpu.dependent_launch import let_next_start, overlap, wait_for_previous
from flover_backend.kernels.gpu.sampling_draw import draw, draw_gathered, kept_masses
from flover_backend.kernels.gpu.sampling_floors import CAPACITY, find_floor
from flover_backend.kernels.gpu.sampling_statistics import is_processed, statistics_kernel
from flover_backend.kernels.gpu.sampling_weights import clamped_temperature, uniform

_CHUNK = 4096
_TILE = 8192


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
    """[max_rows, CAPACITY] float32: the weights among which a floor lies"""
    candidate_ids: torch.Tensor
    """[max_rows, CAPACITY] int32"""

    @classmethod
    def allocate(cls, max_rows: int, vocab_size: int, device: torch.device) -> SamplingScratch:
        """For at most `max_rows` rows of exactly `vocab_size` logits."""
        parts = triton.cdiv(vocab_size, _CHUNK)

        def empty(width: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return torch.empty((max_rows, width), dtype=dtype, device=device)

        return cls(
            empty(vocab_size), empty(parts), empty(parts, torch.int32), empty(parts, torch.float64),
            empty(CAPACITY.value), empty(CAPACITY.value, torch.int32),
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
    statistics_kernel[(parts, num_rows)](
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
        scratch.candidate_ids,
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
def _choose_kernel(
    logits,
    rows,
    state,
    processed,
    maxima,
    ids,
    sums,
    candidates,
    candidate_ids,
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
    let_next_start(OVERLAP)
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
        candidate_ids += place * CAPACITY
        has_processed = is_processed(row_state).to(tl.int32)
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
            gathered = 0
            for by_sum in range(2):
                if (limited & (by_sum == 0)) | ((top_p < 1) & (by_sum == 1)):
                    wanted = tl.where(by_sum == 0, top_k.to(tl.float64), top_p.to(tl.float64) * mass)
                    floor, number, mass, gathered = find_floor(
                        logits, processed, has_processed, vocab_size, top, temperature, candidates, candidate_ids,
                        gathered, wanted, by_sum == 0, floor, number, mass, TILE,
                    )  # fmt: skip
            lowest = tl.maximum(floor.to(tl.float32, bitcast=True), min_p)
            if gathered > 0:
                token = draw_gathered(candidates, candidate_ids, gathered, lowest, point)
            else:
                kept = kept_masses(logits, processed, has_processed, vocab_size, top, temperature, lowest, TILE, TILES)
                token = draw(logits, processed, has_processed, vocab_size, top, temperature, lowest, kept, point, TILE)
        else:
            token = draw(logits, processed, has_processed, vocab_size, top, temperature, 0.0, masses, point, CHUNK)
    tl.store(out + place, token)
