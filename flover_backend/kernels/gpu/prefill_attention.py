"""Attention of packed prompts and chunks over the blocks of one layer's KV buffer.

Flash attention (Dao 2023, arXiv 2307.08691) whose keys and values are gathered through the block table. The work is a
list of items, each up to `BLOCK_M` queries of one chunk, made on the host and read on the device. Query heads that
share keys share a program: its rows are (query, head of the group) pairs, so a short chunk still fills a tile.

Knows block tables and items; nothing of rows' state or of the model. Reference: kernels/attention.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import triton
import triton.language as tl

from flover_backend.kernels.gpu.dependent_launch import let_next_start, overlap, wait_for_previous

BLOCK_M = 128
"""Most queries of an item."""
_FEW_TOKENS = 1024
"""Up to here smaller tiles run more programs at once."""
_MAX_LANES = 48
"""Items at a time: programs without an item would cost time where a graph is recorded for many and a few come."""


@triton.jit
def _load_tile(
    tensor,
    table,
    tile,
    stop,
    kv_head,
    BOUNDED: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """[BLOCK_N, DIM]: positions tile .. tile + BLOCK_N - 1 of one head's keys or values; zero from `stop` on."""
    position = tile + tl.arange(0, BLOCK_N)
    dim = tl.arange(0, DIM)
    if BOUNDED:
        blocks = tl.load(table + position // BLOCK_SIZE, mask=position < stop, other=0)
    else:
        blocks = tl.load(table + position // BLOCK_SIZE)
    slot = blocks.to(tl.int64) * BLOCK_SIZE + position % BLOCK_SIZE
    place = (slot * KV_HEADS + kv_head)[:, None] * HEAD_DIM + dim[None, :]
    if BOUNDED:
        return tl.load(tensor + place, mask=(position < stop)[:, None] & (dim < HEAD_DIM)[None, :], other=0.0)
    if HEAD_DIM < DIM:
        return tl.load(tensor + place, mask=(dim < HEAD_DIM)[None, :], other=0.0)
    return tl.load(tensor + place)


@triton.jit
def _attend(
    q,
    maximum,
    total,
    result,
    keys,
    values,
    table,
    kv_head,
    positions,
    scale,
    start,
    stop,
    MASKED: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    STAGES: tl.constexpr,
):
    """One online-softmax pass over positions start .. stop - 1; unmasked only where every query sees all of them."""
    for tile in tl.range(start, stop, BLOCK_N, num_stages=STAGES):
        key = _load_tile(
            keys, table, tile, stop, kv_head, MASKED, KV_HEADS, HEAD_DIM, DIM, BLOCK_SIZE, BLOCK_N
        )  # fmt: skip
        scores = tl.dot(q, tl.trans(key), input_precision="ieee")
        if MASKED:
            seen = tile + tl.arange(0, BLOCK_N)
            scores = tl.where(seen[None, :] <= positions[:, None], scores, float("-inf"))
        new_maximum = tl.maximum(maximum, tl.max(scores, 1) * scale)
        weights = tl.exp2(scores * scale - new_maximum[:, None])
        shrink = tl.exp2(maximum - new_maximum)
        total = total * shrink + tl.sum(weights, 1)
        value = _load_tile(
            values, table, tile, stop, kv_head, MASKED, KV_HEADS, HEAD_DIM, DIM, BLOCK_SIZE, BLOCK_N
        )  # fmt: skip
        result = tl.dot(weights.to(value.dtype), value, result * shrink[:, None], input_precision="ieee")
        maximum = new_maximum
    return maximum, total, result


@triton.jit
def _attend_part(
    query,
    keys,
    values,
    block_table,
    item,
    out,
    scale,
    query_stride,
    table_stride,
    part,
    kv_head,
    count,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    QUERIES: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    STAGES: tl.constexpr,
):
    """`count` queries of an item from query part * QUERIES on, all heads of the group."""
    token = tl.load(item).to(tl.int64) + part * QUERIES
    table = block_table + tl.load(item + 2).to(tl.int64) * table_stride
    position = tl.load(item + 3) + part * QUERIES
    row = tl.arange(0, ROWS)
    dim = tl.arange(0, DIM)
    index = row // GROUP
    head = kv_head * GROUP + row % GROUP
    mask = (index < count)[:, None] & (dim < HEAD_DIM)[None, :]
    q = tl.load(
        query + (token + index)[:, None] * query_stride + head[:, None] * HEAD_DIM + dim[None, :], mask=mask, other=0.0
    )
    maximum = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    result = tl.zeros((ROWS, DIM), tl.float32)
    positions = position + tl.minimum(index, count - 1)
    whole = (position + 1) // BLOCK_N * BLOCK_N
    maximum, total, result = _attend(
        q, maximum, total, result, keys, values, table, kv_head, positions, scale, 0, whole,
        False, KV_HEADS, HEAD_DIM, DIM, BLOCK_SIZE, BLOCK_N, STAGES,
    )  # fmt: skip
    maximum, total, result = _attend(
        q, maximum, total, result, keys, values, table, kv_head, positions, scale, whole, position + count,
        True, KV_HEADS, HEAD_DIM, DIM, BLOCK_SIZE, BLOCK_N, STAGES,
    )  # fmt: skip
    place = ((token + index) * (KV_HEADS * GROUP) + head)[:, None] * HEAD_DIM + dim[None, :]
    tl.store(out + place, (result / total[:, None]).to(out.dtype.element_ty), mask=mask)


@triton.jit
def _prefill_kernel(
    query,
    keys,
    values,
    block_table,
    items,
    num_items,
    out,
    scale,
    query_stride,
    table_stride,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    QUERIES: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    STAGES: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """Program (part of an item and key-value head, lane): every so many items, from the lane's own on."""
    kv_head = tl.program_id(0) % KV_HEADS
    part = tl.program_id(0) // KV_HEADS
    wait_for_previous(OVERLAP)
    let_next_start(OVERLAP)
    for number in range(tl.program_id(1), tl.load(num_items), tl.num_programs(1)):
        item = items + 4 * number
        count = tl.minimum(tl.load(item + 1) - part * QUERIES, QUERIES)
        if count > 0:
            _attend_part(
                query, keys, values, block_table, item, out, scale, query_stride, table_stride, part, kv_head, count,
                KV_HEADS, GROUP, HEAD_DIM, DIM, BLOCK_SIZE, QUERIES, ROWS, BLOCK_N, STAGES,
            )  # fmt: skip


@dataclass(frozen=True, slots=True)
class PrefillConfig:
    """How the kernel is built for a model; `choose_config` knows what was measured."""

    rows: int
    """(query, head) pairs a program, at least the heads of a group"""
    block_n: int
    """Keys a tile"""
    stages: int
    num_warps: int


def choose_config(num_tokens: int, group: int, head_dim: int, dtype: torch.dtype) -> PrefillConfig:
    """`num_tokens` of the batch; `group`: query heads that share keys."""
    dim = triton.next_power_of_2(head_dim)
    heads = triton.next_power_of_2(group)
    if dtype == torch.float32:
        return PrefillConfig(max(32, heads), 32 if dim <= 128 else 16, 1, 8)
    if num_tokens <= _FEW_TOKENS and heads <= 64:
        return PrefillConfig(64, 64, 2, 4 if dim <= 128 else 8)  # 4 warps have too few registers for a dim of 256
    return PrefillConfig(max(128, heads), 64, 2, 8)


def prefill_attention(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    block_table: torch.Tensor,
    items: torch.Tensor,
    num_items: torch.Tensor,
    scale: float,
    out: torch.Tensor,
    max_items: int,
    config: PrefillConfig | None = None,
) -> None:
    """Attention of the items' tokens to their sequences up to themselves. Writes their rows of `out`, and no others.

    query [T, heads, head_dim], rows may lie apart; keys, values [blocks, block_size, kv_heads, head_dim] contiguous,
    the tokens' own in them already; block_table [rows, max_blocks] int32; items [>= max_items, 4] int32, see
    `prefill_items`; num_items [1] int32, at most max_items; out [T, heads * head_dim].
    """
    num_heads, head_dim = query.shape[1:]
    block_size, num_kv_heads = keys.shape[1:3]
    assert keys.shape == values.shape and num_heads % num_kv_heads == 0 and keys.shape[3] == head_dim
    assert keys.is_contiguous() and values.is_contiguous() and query.dtype == keys.dtype == values.dtype == out.dtype
    assert query.stride()[1:] == (head_dim, 1) and out.is_contiguous() and out.shape == (len(query), query[0].numel())
    assert block_table.dtype == items.dtype == num_items.dtype == torch.int32 and block_table.stride(1) == 1
    assert items.is_contiguous() and max_items <= len(items)
    if max_items == 0:
        return
    group = num_heads // num_kv_heads
    config = config or choose_config(len(query), group, head_dim, query.dtype)
    queries = config.rows // group
    _prefill_kernel[(num_kv_heads * triton.cdiv(BLOCK_M, queries), min(max_items, _MAX_LANES))](
        query,
        keys,
        values,
        block_table,
        items,
        num_items,
        out,
        scale * math.log2(math.e),
        query.stride(0),
        block_table.stride(0),
        KV_HEADS=num_kv_heads,
        GROUP=group,
        HEAD_DIM=head_dim,
        DIM=max(16, triton.next_power_of_2(head_dim)),
        BLOCK_SIZE=block_size,
        QUERIES=queries,
        ROWS=config.rows,
        BLOCK_N=config.block_n,
        STAGES=config.stages,
        num_warps=config.num_warps,
        **overlap(query.device),
    )


def prefill_items(chunks: Sequence[tuple[int, int, int, int]]) -> npt.NDArray[np.int32]:
    """[N, 4] int32 items of (first token, queries, row of the block table, position of the first), longest work first.

    chunks: (first token in the batch, length >= 1, row, start) each. N is at most tokens // BLOCK_M + len(chunks).
    """
    first, length, row, start = np.asarray(chunks, dtype=np.int64).reshape(-1, 4).T
    counts = -(-length // BLOCK_M)
    before = np.repeat(np.cumsum(counts) - counts, counts)
    offset = (np.arange(len(before)) - before) * BLOCK_M
    chunk = np.repeat(np.arange(len(length)), counts)
    queries = np.minimum(length[chunk] - offset, BLOCK_M)
    position = start[chunk] + offset
    items = np.stack((first[chunk] + offset, queries, row[chunk], position), axis=1)
    longest_first = np.argsort(-(position + queries) * queries, kind="stable")
    return np.ascontiguousarray(items[longest_first], dtype=np.int32)
