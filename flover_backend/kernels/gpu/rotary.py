"""Rotary embedding (Su et al. 2021, arXiv 2104.09864) of packed queries and keys, and the write of keys and values
into their slots, in one launch. Frequencies come from models/rope.py; the reference is kernels/rotary.py.

Pairs lie a half apart (LLaMA) or are neighbours (GPT-J). Angles, their cosines and the rotation are computed in float32
and rounded once. Cosines are computed where they are used: a token's 64 of them cost less than a table's second trip to
memory.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from flover_backend.kernels.gpu.dependent_launch import let_next_start, overlap, wait_for_previous
from flover_backend.kernels.norm import rms_norm_reference
from flover_backend.kernels.rotary import pair_tables, rotary_tables, rotate, rotate_pairs, write_kv


@triton.jit
def _head_norm(low, high, weight, eps, columns, mask, HALF: tl.constexpr, dtype: tl.constexpr):
    """RMSNorm of each head, given as two halves in float32; rounded as kernels/norm.py rounds."""
    scale = tl.rsqrt((tl.sum(low * low, 1) + tl.sum(high * high, 1)) / (2 * HALF) + eps)[:, None]
    low_gain = tl.load(weight + columns, mask=mask, other=0.0).to(tl.float32)[None, :]
    high_gain = tl.load(weight + HALF + columns, mask=mask, other=0.0).to(tl.float32)[None, :]
    low = ((low * scale).to(dtype).to(tl.float32) * low_gain).to(dtype).to(tl.float32)
    high = ((high * scale).to(dtype).to(tl.float32) * high_gain).to(dtype).to(tl.float32)
    return low, high


@triton.jit
def _load_pairs(base, heads_inside, HALF: tl.constexpr, COLUMNS: tl.constexpr, INTERLEAVED: tl.constexpr):
    """[heads, COLUMNS] twice: the elements that are rotated against each other."""
    columns = tl.arange(0, COLUMNS)
    if INTERLEAVED:
        # Whole heads, then taken apart: a load of every second element would not be one of neighbouring threads.
        both = tl.arange(0, 2 * COLUMNS)
        mask = heads_inside[:, None] & (both < 2 * HALF)[None, :]
        pairs = tl.load(base[:, None] + both[None, :], mask=mask, other=0.0)
        low, high = tl.split(tl.reshape(pairs, (pairs.shape[0], COLUMNS, 2)))
    else:
        mask = heads_inside[:, None] & (columns < HALF)[None, :]
        low = tl.load(base[:, None] + columns[None, :], mask=mask, other=0.0)
        high = tl.load(base[:, None] + HALF + columns[None, :], mask=mask, other=0.0)
    return low, high


@triton.jit
def _store_pairs(base, low, high, heads_inside, HALF: tl.constexpr, COLUMNS: tl.constexpr, INTERLEAVED: tl.constexpr):
    columns = tl.arange(0, COLUMNS)
    if INTERLEAVED:
        both = tl.arange(0, 2 * COLUMNS)
        mask = heads_inside[:, None] & (both < 2 * HALF)[None, :]
        pairs = tl.reshape(tl.join(low, high), (low.shape[0], 2 * COLUMNS))
        tl.store(base[:, None] + both[None, :], pairs, mask=mask)
    else:
        mask = heads_inside[:, None] & (columns < HALF)[None, :]
        tl.store(base[:, None] + columns[None, :], low, mask=mask)
        tl.store(base[:, None] + HALF + columns[None, :], high, mask=mask)


@triton.jit
def _rotate_and_write_kernel(
    qkv,
    positions,
    inv_freq,
    slot_mapping,
    q_norm,
    k_norm,
    query_out,
    keys,
    values,
    eps,
    Q: tl.constexpr,
    K: tl.constexpr,
    HALF: tl.constexpr,
    HEADS: tl.constexpr,
    COLUMNS: tl.constexpr,
    NORM: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    dtype = query_out.dtype.element_ty
    DIM: tl.constexpr = 2 * HALF
    columns = tl.arange(0, COLUMNS)
    inside = columns < HALF
    heads = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    frequency = tl.load(inv_freq + columns, mask=inside, other=0.0)
    let_next_start(OVERLAP)
    wait_for_previous(OVERLAP)

    token = tl.program_id(0).to(tl.int64)
    source = qkv + token * ((Q + 2 * K) * DIM) + heads * DIM
    low, high = _load_pairs(source, heads < Q + 2 * K, HALF, COLUMNS, INTERLEAVED)
    slot = tl.load(slot_mapping + token)
    angles = tl.load(positions + token).to(tl.float32) * frequency
    cos, sin = tl.cos(angles)[None, :], tl.sin(angles)[None, :]

    is_value = (heads >= Q + K) & (heads < Q + 2 * K)
    value_heads = slot * (K * DIM) + (heads - (Q + K)) * DIM
    _store_pairs(values + value_heads, low, high, is_value, HALF, COLUMNS, INTERLEAVED)
    x, y = low.to(tl.float32), high.to(tl.float32)
    if NORM:
        q_low, q_high = _head_norm(x, y, q_norm, eps, columns, inside, HALF, dtype)
        k_low, k_high = _head_norm(x, y, k_norm, eps, columns, inside, HALF, dtype)
        is_query = (heads < Q)[:, None]
        x, y = tl.where(is_query, q_low, k_low), tl.where(is_query, q_high, k_high)
    low, high = (x * cos - y * sin).to(dtype), (y * cos + x * sin).to(dtype)
    query_heads = token * (Q * DIM) + heads * DIM
    _store_pairs(query_out + query_heads, low, high, heads < Q, HALF, COLUMNS, INTERLEAVED)
    key_heads = slot * (K * DIM) + (heads - Q) * DIM
    is_key = (heads >= Q) & (heads < Q + K)
    _store_pairs(keys + key_heads, low, high, is_key, HALF, COLUMNS, INTERLEAVED)


def rotate_and_write(
    qkv: torch.Tensor,
    positions: torch.Tensor,
    inv_freq: torch.Tensor,
    slot_mapping: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    query_out: torch.Tensor,
    *,
    q_norm: torch.Tensor | None = None,
    k_norm: torch.Tensor | None = None,
    eps: float = 0.0,
    interleaved: bool = False,
) -> None:
    """Rotate queries and keys of qkv [T, (Q + 2 K) * D]; queries go to query_out [T, Q, D], keys and values to slots.

    positions [T] int32, inv_freq [D / 2] float32, slot_mapping [T] int64; keys, values [blocks, block_size, K, D]
    contiguous, written in place. Halves are rotated against each other (Hugging Face's order), or with `interleaved`
    neighbours (GPT-J's); frequency 0 leaves a pair as it is. q_norm, k_norm [D]: each head is RMS-normalized first
    (Qwen3, not with `interleaved`). Tokens that share a slot leave any one's bits in it.
    """
    num_tokens, num_heads, dim = query_out.shape
    kv_heads = keys.shape[2]
    assert qkv.shape == (num_tokens, (num_heads + 2 * kv_heads) * dim) and keys.shape == values.shape
    assert keys.shape[3] == dim and dim % 2 == 0 and inv_freq.shape == (dim // 2,) and inv_freq.dtype == torch.float32
    assert positions.shape == slot_mapping.shape == (num_tokens,)
    assert positions.dtype == torch.int32 and slot_mapping.dtype == torch.int64
    assert qkv.dtype == keys.dtype == values.dtype == query_out.dtype and (q_norm is None) == (k_norm is None)
    assert all(t.is_contiguous() for t in (qkv, keys, values, query_out))
    assert not (interleaved and q_norm is not None)
    if num_tokens == 0:
        return
    heads = 8 if num_tokens <= 64 else 16
    columns = triton.next_power_of_2(dim // 2)
    _rotate_and_write_kernel[(num_tokens, triton.cdiv(num_heads + 2 * kv_heads, heads))](
        qkv,
        positions,
        inv_freq,
        slot_mapping,
        qkv if q_norm is None else q_norm,
        qkv if k_norm is None else k_norm,
        query_out,
        keys,
        values,
        eps,
        Q=num_heads,
        K=kv_heads,
        HALF=dim // 2,
        HEADS=heads,
        COLUMNS=columns,
        NORM=q_norm is not None,
        INTERLEAVED=interleaved,
        num_warps=max(1, columns // 32),  # a thread an angle: with more, each computes several angles' cosines
        **overlap(qkv.device),
    )


def rotate_and_write_reference(
    qkv: torch.Tensor,
    positions: torch.Tensor,
    inv_freq: torch.Tensor,
    slot_mapping: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    num_heads: int,
    *,
    q_norm: torch.Tensor | None = None,
    k_norm: torch.Tensor | None = None,
    eps: float = 0.0,
    interleaved: bool = False,
) -> torch.Tensor:
    """Writes keys and values as `rotate_and_write` does and returns the queries, [T, Q, D]."""
    kv_heads, dim = keys.shape[2:]
    query, key, value = qkv.view(len(qkv), -1, dim).split_with_sizes((num_heads, kv_heads, kv_heads), 1)
    if q_norm is not None and k_norm is not None:
        query, key = rms_norm_reference(query, q_norm, eps), rms_norm_reference(key, k_norm, eps)
    make_tables, turn = (pair_tables, rotate_pairs) if interleaved else (rotary_tables, rotate)
    tables = make_tables(positions.long(), inv_freq, torch.float32)
    query, key = (turn(t.float(), *tables).to(qkv.dtype) for t in (query, key))
    write_kv(key, value.contiguous(), keys, values, slot_mapping)
    return query
