"""Cuts the sequences that decode into pieces of one size, on the device. Launched by decode_attention.py."""

from __future__ import annotations

import triton
import triton.language as tl

from flover_backend.kernels.gpu.dependent_launch import let_next_start, wait_for_previous


@triton.jit
def _count(quanta, size):
    return tl.sum((quanta + size - 1) // size)


@triton.jit
def _least_size(quanta, size, largest, most):
    """The least size in size .. largest that makes at most `most` pieces; `largest` does."""
    while size < largest:
        middle = (size + largest) // 2
        if _count(quanta, middle) <= most:
            largest = middle
        else:
            size = middle + 1
    return size


@triton.jit(do_not_specialize=["num_tokens", "resident"])
def plan_kernel(
    decode_lens,
    token_rows,
    pieces,
    num_tokens,
    resident,
    QUANTUM: tl.constexpr,
    MIN_QUANTA: tl.constexpr,
    ROUNDS: tl.constexpr,
    START_COST: tl.constexpr,
    BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """Program p makes piece p: pieces [P, 8] int32 (token, row, start, stop, first piece of the token, its pieces).

    start and stop are positions; both 0: nothing to do. Of the sizes that fill 1 .. ROUNDS rounds of the `resident`
    pieces that run at once, the one with the least rounds * (size + START_COST), which counts quanta.
    """
    piece = tl.program_id(0)
    wait_for_previous(OVERLAP)
    let_next_start(OVERLAP)
    token = tl.arange(0, BLOCK)
    lens = tl.load(decode_lens + token, mask=token < num_tokens, other=0)
    quanta = (lens + QUANTUM - 1) // QUANTUM
    num_live = tl.sum((quanta > 0).to(tl.int32))
    largest = tl.maximum(tl.max(quanta, 0), MIN_QUANTA)
    best = largest
    best_cost = tl.full((), 1 << 30, tl.int32)
    least = tl.full((), MIN_QUANTA, tl.int32)
    for rounds in tl.static_range(1, ROUNDS + 1):
        largest = _least_size(quanta, least, largest, tl.maximum(num_live, rounds * resident))
        count = _count(quanta, largest)
        cost = (count + resident - 1) // resident * (largest + START_COST)
        cost += tl.where(count > num_live, START_COST, 0)
        best = tl.where(cost < best_cost, largest, best)
        best_cost = tl.minimum(cost, best_cost)
    counts = (quanta + best - 1) // best
    ends = tl.cumsum(counts, 0)
    ended = tl.sum(((ends <= piece) & (token < num_tokens)).to(tl.int32))
    first = tl.max(tl.where(ends <= piece, ends, 0), 0)
    out = pieces + 8 * piece
    if piece < tl.sum(counts):
        length = tl.load(decode_lens + ended)
        begin = (piece - first) * best * QUANTUM
        tl.store(out, ended)
        tl.store(out + 1, tl.load(token_rows + ended))
        tl.store(out + 2, begin)
        tl.store(out + 3, tl.minimum(begin + best * QUANTUM, length))
        tl.store(out + 4, first)
        tl.store(out + 5, tl.cdiv(tl.cdiv(length, QUANTUM), best))
    else:
        tl.store(out + 1, 0)
        tl.store(out + 2, 0)
        tl.store(out + 3, 0)
