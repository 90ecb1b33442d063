"""The sampler's first launch: a row's logits as its parameters change them, and what each part of them holds.

Rows without penalties, biases or masks are only read; the others' changed logits go to `processed`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from flover_backend.kernels.gpu import row_fields as f
from flover_backend.kernels.gpu.dependent_launch import let_next_start, wait_for_previous
from flover_backend.kernels.gpu.sampling_weights import GROUP, clamped_temperature, finite, weights

_MASKED_LOGIT = tl.constexpr(-3.4028234663852886e38)
_COUNT_BITS = tl.constexpr(0x7FFFFFFF)
_LIST_BLOCK = tl.constexpr(128)


@triton.jit
def _is_masked(row_state):
    """Whether the tokens that would end the row are masked."""
    is_short = tl.load(row_state + f.NUM_TOKENS) < tl.load(row_state + f.MASKED_UNTIL)
    return is_short & (tl.load(row_state + f.NUM_MASKS) > 0)


@triton.jit
def is_processed(row_state):
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
def statistics_kernel(
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
    """Program (part, place): CHUNK logits of the place-th sampled row; best logit, its id, sum of weights."""
    part = tl.program_id(0)
    place = tl.program_id(1).to(tl.int64)
    wait_for_previous(OVERLAP)
    let_next_start(OVERLAP)
    row = tl.load(rows + place).to(tl.int64)
    row_state = state + row * f.ROW_INTS
    processed += place * vocab_size
    start = part * CHUNK
    index = start + tl.arange(0, CHUNK)
    inside = index < vocab_size
    x = finite(tl.load(logits + place * row_stride + index, mask=inside, other=0.0).to(tl.float32))
    if is_processed(row_state):
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
