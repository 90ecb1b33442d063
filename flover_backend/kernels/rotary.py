"""Rotary position embedding (Su et al. 2021, arXiv 2104.09864) and the write of keys and values into their slots.

Halves are rotated against each other (Hugging Face's order for LLaMA: element i with element i + head_dim / 2), or
neighbours (GPT-J's: element 2 i with 2 i + 1) of a head's first elements. Frequencies come from models/rope.py; this
file knows nothing of scaling types.
"""

from __future__ import annotations

import torch


def rotary_tables(positions: torch.Tensor, inv_freq: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """cos and signed sin of every token's angles, once per batch for all layers.

    positions [T] int64, inv_freq [head_dim / 2] float32 -> cos [T, 1, head_dim], sin [T, 1, head_dim] whose first
    half is negated, both in `dtype`. Angles are computed in float32.
    """
    assert inv_freq.dtype == torch.float32 and positions.ndim == 1
    angles = positions[:, None].float() * inv_freq
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), -1)[:, None].to(dtype), torch.cat((-sin, sin), -1)[:, None].to(dtype)


def rotate(x: torch.Tensor, cos: torch.Tensor, signed_sin: torch.Tensor) -> torch.Tensor:
    """[T, heads, head_dim] rotated by its tokens' angles (`rotary_tables`); a new contiguous tensor."""
    assert x.ndim == 3 and x.stride(-1) == 1 and x.shape[-1] % 2 == 0
    assert cos.shape == signed_sin.shape == (x.shape[0], 1, x.shape[2]) and cos.dtype == x.dtype
    return rotate_reference(x, cos, signed_sin)


def rotate_reference(x: torch.Tensor, cos: torch.Tensor, signed_sin: torch.Tensor) -> torch.Tensor:
    """x * cos + swap_halves(x) * signed_sin."""
    half = x.shape[-1] // 2
    return (x * cos).addcmul_(x.roll(half, -1), signed_sin)


def pair_tables(positions: torch.Tensor, inv_freq: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """As `rotary_tables`, for `rotate_pairs`: inv_freq [R / 2] -> cos, sin [T, 1, R]; even elements of sin negated."""
    assert inv_freq.dtype == torch.float32 and positions.ndim == 1
    angles = positions[:, None].float() * inv_freq
    cos, sin = angles.cos(), angles.sin()
    return tuple(torch.stack(pair, -1).flatten(1)[:, None].to(dtype) for pair in ((cos, cos), (-sin, sin)))


def rotate_pairs(x: torch.Tensor, cos: torch.Tensor, signed_sin: torch.Tensor) -> torch.Tensor:
    """[T, heads, head_dim] with its first R elements rotated, neighbours against each other; a new tensor.

    cos, signed_sin [T, 1, R] of `pair_tables`. The elements behind R are copied.
    """
    rotated = cos.shape[-1]
    assert x.ndim == 3 and cos.shape == signed_sin.shape and len(cos) == len(x) and cos.dtype == x.dtype
    assert rotated % 2 == 0 and rotated <= x.shape[-1]
    out = x.clone(memory_format=torch.contiguous_format)
    first = out[..., :rotated]
    swapped = x[..., :rotated].reshape(*x.shape[:2], -1, 2).flip(-1).flatten(-2)
    first.mul_(cos).addcmul_(swapped, signed_sin)
    return out


def write_kv(
    key: torch.Tensor, value: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, slot_mapping: torch.Tensor
) -> None:
    """Put token t's key and value into slot `slot_mapping[t]` of one layer's buffer.

    key, value [T, kv_heads, head_dim]; keys, values [blocks, block_size, kv_heads, head_dim] contiguous, written in
    place; slot_mapping [T] int64, block * block_size + offset.
    """
    assert key.shape == value.shape and key.shape[1:] == keys.shape[2:] and keys.shape == values.shape
    assert key.dtype == value.dtype == keys.dtype == values.dtype and slot_mapping.dtype == torch.int64
    assert keys.is_contiguous() and values.is_contiguous()
    keys.view(-1, *keys.shape[2:]).index_copy_(0, slot_mapping, key)
    values.view(-1, *values.shape[2:]).index_copy_(0, slot_mapping, value)
