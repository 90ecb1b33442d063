"""Attention of a decoding token over a piece of its sequence; pieces combined. Launched by decode_attention.py."""

from __future__ import annotations

import triton
import triton.language as tl

from flover_backend.kernels.gpu.dependent_launch import let_next_start, wait_for_previous


@triton.jit
def _attend(
    query,
    keys,
    values,
    table,
    kv_head,
    start,
    stop,
    scale,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    TILE: tl.constexpr,
    STAGES: tl.constexpr,
):
    """The GROUP heads of one key-value head, padded to HEADS, over positions start .. stop - 1, by matrix products.

    Returns maximum [HEADS], sum [HEADS] and unscaled result [HEADS, DIM].
    """
    position = tl.arange(0, TILE)
    head = tl.arange(0, HEADS)
    dim = tl.arange(0, DIM)
    in_dim = dim < HEAD_DIM
    offsets = (kv_head * GROUP + head[:, None]) * HEAD_DIM + dim[None, :]
    q = tl.load(query + offsets, mask=(head < GROUP)[:, None] & in_dim[None, :], other=0.0)
    maximum = tl.full((HEADS,), float("-inf"), tl.float32)
    total = tl.zeros((HEADS,), tl.float32)
    result = tl.zeros((HEADS, DIM), tl.float32)
    at = start + position
    blocks = tl.load(table + at // BLOCK_SIZE, mask=at < stop, other=0)
    for tile in tl.range(start, stop, TILE, num_stages=STAGES):
        at = tile + position
        inside = at < stop
        slot = blocks.to(tl.int64) * BLOCK_SIZE + at % BLOCK_SIZE
        # The next tile's, so that its keys need not wait for them.
        blocks = tl.load(table + (at + TILE) // BLOCK_SIZE, mask=at + TILE < stop, other=0)
        place = (slot * KV_HEADS + kv_head)[:, None] * HEAD_DIM + dim[None, :]
        mask = inside[:, None] & in_dim[None, :]
        key = tl.load(keys + place, mask=mask, other=0.0)
        value = tl.load(values + place, mask=mask, other=0.0)
        scores = tl.dot(q, tl.trans(key), input_precision="ieee") * scale
        scores = tl.where(inside[None, :], scores, float("-inf"))
        new_maximum = tl.maximum(maximum, tl.max(scores, 1))
        weights = tl.exp2(scores - new_maximum[:, None])
        shrink = tl.exp2(maximum - new_maximum)
        total = total * shrink + tl.sum(weights, 1)
        result = tl.dot(weights.to(value.dtype), value, result * shrink[:, None], input_precision="ieee")
        maximum = new_maximum
    return maximum, total, result


@triton.jit
def _combine(
    partial_results,
    partial_weights,
    first_head,
    first_piece,
    num_pieces,
    num_heads,
    ALL_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    PARTS: tl.constexpr,
):
    """[HEADS, DIM]: the result of heads first_head .. first_head + num_heads - 1, from what the pieces left."""
    part = tl.arange(0, PARTS)
    head = tl.arange(0, HEADS)
    dim = tl.arange(0, DIM)
    maximum = tl.full((HEADS,), float("-inf"), tl.float32)
    total = tl.zeros((HEADS,), tl.float32)
    result = tl.zeros((HEADS, DIM), tl.float32)
    for start in range(0, num_pieces, PARTS):
        piece = first_piece + start + part
        place = piece[None, :] * ALL_HEADS + first_head + head[:, None]
        mask = (head < num_heads)[:, None] & (start + part < num_pieces)[None, :]
        # Not from L1: other programs wrote these.
        logs = tl.load(partial_weights + place, mask=mask, other=float("-inf"), cache_modifier=".cg")
        results = tl.load(
            partial_results + place[:, :, None] * HEAD_DIM + dim[None, None, :],
            mask=mask[:, :, None] & (dim < HEAD_DIM)[None, None, :],
            other=0.0,
            cache_modifier=".cg",
        )
        new_maximum = tl.maximum(maximum, tl.max(logs, 1))
        known = tl.where(head < num_heads, new_maximum, 0.0)
        weights = tl.exp2(logs - known[:, None])
        shrink = tl.exp2(maximum - known)
        total = total * shrink + tl.sum(weights, 1)
        result = result * shrink[:, None] + tl.sum(weights[:, :, None] * results, 1)
        maximum = new_maximum
    return result / tl.where(head < num_heads, total, 1.0)[:, None]


@triton.jit
def decode_kernel(
    query,
    keys,
    values,
    block_table,
    pieces,
    partial_results,
    partial_weights,
    counters,
    out,
    scale,
    query_stride,
    table_stride,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HEADS: tl.constexpr,
    TILE: tl.constexpr,
    STAGES: tl.constexpr,
    OUT_HEADS: tl.constexpr,
    PARTS: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """Program (piece, key-value head): the GROUP heads that share its keys over one piece.

    partial_results [pieces, heads, HEAD_DIM] float32; partial_weights [pieces, heads] float32, the base 2 logarithms of
    their sums of weights.
    """
    ALL_HEADS: tl.constexpr = KV_HEADS * GROUP
    kv_head = tl.program_id(0) % KV_HEADS
    piece = tl.program_id(0) // KV_HEADS
    first_head = kv_head * GROUP
    # The work list is as old as the iteration: DecodeAttention.run says what lies between.
    token = tl.load(pieces + 8 * piece)
    row = tl.load(pieces + 8 * piece + 1)
    start = tl.load(pieces + 8 * piece + 2)
    stop = tl.load(pieces + 8 * piece + 3)
    first_piece = tl.load(pieces + 8 * piece + 4)
    num_pieces = tl.load(pieces + 8 * piece + 5)
    table = block_table + row.to(tl.int64) * table_stride
    wait_for_previous(OVERLAP)
    let_next_start(OVERLAP)
    if start < stop:
        token_query = query + token.to(tl.int64) * query_stride
        maximum, total, result = _attend(
            token_query, keys, values, table, kv_head, start, stop, scale,
            KV_HEADS, GROUP, HEAD_DIM, BLOCK_SIZE, HEADS, DIM, TILE, STAGES,
        )  # fmt: skip
        head = tl.arange(0, HEADS)
        dim = tl.arange(0, DIM)
        mask = (head < GROUP)[:, None] & (dim < HEAD_DIM)[None, :]
        token_out = out + (token.to(tl.int64) * ALL_HEADS + first_head) * HEAD_DIM
        result = result / tl.where(head < GROUP, total, 1.0)[:, None]
        if num_pieces == 1:
            tl.store(token_out + head[:, None] * HEAD_DIM + dim[None, :], result.to(out.dtype.element_ty), mask=mask)
        else:
            place = piece * ALL_HEADS + first_head + head
            tl.store(partial_results + place[:, None] * HEAD_DIM + dim[None, :], result, mask=mask)
            tl.store(partial_weights + place, maximum + tl.log2(total), mask=head < GROUP)
            tl.debug_barrier()
            arrived = tl.atomic_add(counters + token * KV_HEADS + kv_head, 1, sem="acq_rel")
            if arrived == num_pieces - 1:
                tl.store(counters + token * KV_HEADS + kv_head, 0)
                combined = _combine(
                    partial_results, partial_weights, first_head, first_piece, num_pieces, GROUP,
                    ALL_HEADS, HEAD_DIM, OUT_HEADS, DIM, PARTS,
                )  # fmt: skip
                out_head = tl.arange(0, OUT_HEADS)
                tl.store(
                    token_out + out_head[:, None] * HEAD_DIM + dim[None, :],
                    combined.to(out.dtype.element_ty),
                    mask=(out_head < GROUP)[:, None] & (dim < HEAD_DIM)[None, :],
                )
