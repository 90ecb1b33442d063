"""Attention of packed tokens over the blocks of one layer's KV buffer: decode rows together, each chunk by itself.

`AttentionIndex` holds what depends on the batch alone and is built once for all layers. A row's computation touches
only slots of its own sequence: what other or earlier sequences left in a block (even NaN) cannot reach it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from flover_backend.kernels.threads import compute_threads
from flover_backend.models.batch import ForwardBatch


@dataclass(frozen=True, slots=True)
class Segment:
    """A chunk of one sequence: tokens `begin .. begin + query_len - 1` of the batch, its sequence's last ones."""

    begin: int
    query_len: int
    kv_len: int
    blocks: torch.Tensor
    """[ceil(kv_len / block_size)] int32 or int64 block ids"""
    mask: torch.Tensor | None
    """[query_len, kv_len] in the queries' dtype: 0 where a query sees a key, else -inf. None: a chunk that starts its
    sequence, plainly causal."""


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """Decode rows of similar length that are computed as one padded batch of R rows."""

    members: torch.Tensor
    """[R] int64 rows of the batch"""
    rows: torch.Tensor
    """[R * kv_heads * longest] int64 into a buffer seen as [slots * kv_heads, head_dim]. Past a row's length it
    points at the row's own first slot."""
    bias: torch.Tensor
    """[R * kv_heads, 1, longest] float32: 0, or -inf past a row's length"""
    is_small: bool
    """Not worth a second CPU thread."""


@dataclass(frozen=True, slots=True)
class AttentionIndex:
    """Where each segment's keys and values lie, for every layer of one batch."""

    groups: tuple[DecodeGroup, ...]
    segments: tuple[Segment, ...]


_MAX_PADDING = 2
# With whole vectors in every product and sum, a row gets the same float32 bits whatever rows share its group (seen
# with AVX-512; nothing relies on it).
_PADDED_TO = 32
_MAX_GROUP_BYTES = 8 << 20
_SMALL_GROUP_BYTES = 3 << 19


def build_index(batch: ForwardBatch, keys: torch.Tensor) -> AttentionIndex:
    """The batch's `AttentionIndex`; a handful of small tensor operations, no wait for the device.

    keys [blocks, block_size, kv_heads, head_dim]: any layer's, for its shape.
    """
    max_tokens = _MAX_GROUP_BYTES // _gathered_bytes(keys)
    grouped = group_by_length(batch.kv_lens[: batch.num_decodes], max_tokens)
    groups = [_decode_group(batch, rows, keys) for rows in grouped]
    return AttentionIndex(tuple(groups), tuple(_segments(batch, keys)))


def _gathered_bytes(keys: torch.Tensor) -> int:
    """Of one token's key and value, in float32."""
    return 2 * 4 * keys.shape[2] * keys.shape[3]


def group_by_length(lens: list[int], max_tokens: int) -> list[list[int]]:
    """Rows in groups, so that one long row does not make many short ones long: longest first, ascending inside.

    Within a group the longest is at most `_MAX_PADDING` times the shortest (or 64), and the padded tokens are at
    most `max_tokens` (or one row's), which keeps what is gathered in the processor's cache.
    """
    groups: list[list[int]] = []
    longest = 0
    for row in sorted(range(len(lens)), key=lambda r: -lens[r]):
        fits = groups and (len(groups[-1]) + 1) * longest <= max_tokens
        if fits and longest <= max(64, _MAX_PADDING * lens[row]):
            groups[-1].append(row)
        else:
            groups.append([row])
            longest = lens[row]
    return [sorted(group) for group in groups]


def _decode_group(batch: ForwardBatch, rows: list[int], keys: torch.Tensor) -> DecodeGroup:
    block_size, num_kv_heads = keys.shape[1:3]
    device, longest = batch.input_ids.device, max(batch.kv_lens[row] for row in rows)
    members = torch.tensor(rows, device=device)
    positions = torch.arange(-(-longest // _PADDED_TO) * _PADDED_TO, device=device)
    inside = positions < batch.seqlens_k[members, None]
    positions = positions * inside
    slots = batch.block_table[members].long().gather(1, positions // block_size) * block_size + positions % block_size
    heads = slots[:, None, :] * num_kv_heads + torch.arange(num_kv_heads, device=device)[:, None]
    bias = torch.zeros(inside.shape, device=device).masked_fill_(~inside, float("-inf"))
    is_small = device.type == "cpu" and inside.numel() * _gathered_bytes(keys) <= _SMALL_GROUP_BYTES
    return DecodeGroup(members, heads.flatten(), bias[:, None].repeat_interleave(num_kv_heads, 0), is_small)


def _segments(batch: ForwardBatch, keys: torch.Tensor) -> list[Segment]:
    begin, segments = batch.num_decodes, []
    for i in range(batch.num_decodes, len(batch.query_lens)):
        query_len, kv_len = batch.query_lens[i], batch.kv_lens[i]
        blocks = batch.block_table[i, : -(-kv_len // keys.shape[1])]
        mask = None if query_len == kv_len else _chunk_mask(query_len, kv_len, keys)
        segments.append(Segment(begin, query_len, kv_len, blocks, mask))
        begin += query_len
    return segments


def _chunk_mask(query_len: int, kv_len: int, keys: torch.Tensor) -> torch.Tensor:
    """[query_len, kv_len]: everything before the chunk is seen, and the chunk causally."""
    return keys.new_full((query_len, kv_len), float("-inf")).triu_(kv_len - query_len + 1)


def attention(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, index: AttentionIndex, scale: float
) -> torch.Tensor:
    """Softmax attention of every token over its sequence up to itself; keys and values are in the buffer already.

    query [T, heads, head_dim]; keys, values [blocks, block_size, kv_heads, head_dim] contiguous; returns
    [T, heads * head_dim]. Query head h reads key-value head h // (heads / kv_heads).
    """
    assert query.ndim == 3 and query.shape[2] == keys.shape[3] and query.shape[1] % keys.shape[2] == 0
    assert keys.shape == values.shape and query.dtype == keys.dtype == values.dtype
    assert keys.is_contiguous() and values.is_contiguous() and query.stride()[1:] == (query.shape[2], 1)
    out = query.new_empty(query.shape)
    for group in index.groups:
        whole = len(group.members) == len(query)
        with compute_threads(1 if group.is_small else None):
            part = decode_reference(query if whole else query[group.members], keys, values, group, scale)
        if whole:
            return part.flatten(1)
        out[group.members] = part
    for segment in index.segments:
        tokens = slice(segment.begin, segment.begin + segment.query_len)
        out[tokens] = prefill_reference(query[tokens], keys, values, segment, scale)
    return out.flatten(1)


def decode_reference(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, group: DecodeGroup, scale: float
) -> torch.Tensor:
    """[R, heads, head_dim], one token a row of the group -> the same shape. Keys and values are gathered, padded."""
    num_rows, _, head_dim = query.shape
    batch = num_rows * keys.shape[2]
    key = keys.view(-1, head_dim).index_select(0, group.rows).view(batch, -1, head_dim).float()
    value = values.view(-1, head_dim).index_select(0, group.rows).view(batch, -1, head_dim).float()
    scores = torch.baddbmm(group.bias, query.reshape(batch, -1, head_dim).float(), key.transpose(1, 2), alpha=scale)
    return torch.bmm(scores.softmax(-1), value).view(query.shape).to(query.dtype)


def prefill_reference(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, segment: Segment, scale: float
) -> torch.Tensor:
    """[query_len, heads, head_dim], one chunk -> the same shape."""
    groups = query.shape[1] // keys.shape[2]
    shape = (keys.shape[2], groups, -1, keys.shape[3])
    key, value = (
        layer.index_select(0, segment.blocks).flatten(0, 1)[: segment.kv_len].transpose(0, 1)[:, None].expand(shape)
        for layer in (keys, values)
    )
    out = F.scaled_dot_product_attention(
        query.transpose(0, 1).view(-1, groups, len(query), query.shape[2]),
        key,
        value,
        segment.mask,
        0.0,
        segment.mask is None,
        scale=scale,
    )
    return out.flatten(0, 1).transpose(0, 1)
