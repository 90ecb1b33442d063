"""Rotation and KV write in one kernel against the plain-torch reference, every slot and head checked."""

from __future__ import annotations

import pytest
import torch

from flover_backend.kernels.gpu.rotary import rotate_and_write, rotate_and_write_reference
from tests.kernels_gpu.compilation import compile_kernel

TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def _check(
    num_tokens: int,
    heads: int,
    kv_heads: int,
    dim: int,
    dtype: torch.dtype,
    device: torch.device,
    norm: bool = False,
    rotary_dim: int | None = None,
) -> None:
    """rotary_dim: neighbours are rotated, and only in so many of a head's first elements."""
    torch.manual_seed(num_tokens + heads + dim)
    qkv = torch.randn(num_tokens, (heads + 2 * kv_heads) * dim).to(dtype)
    positions = torch.randint(131072, (num_tokens,), dtype=torch.int32)
    positions[0], positions[-1] = 131071, 0
    inv_freq = 1.0 / 5e5 ** (torch.arange(0, dim, 2).float() / dim)
    if rotary_dim is not None:
        inv_freq[rotary_dim // 2 :] = 0
    shape = (-(-num_tokens // 8) + 2, 8, kv_heads, dim)
    slots = torch.randperm(shape[0] * 8)[:num_tokens]
    expected_keys, expected_values = torch.randn(2, *shape).to(dtype).unbind(0)
    keys, values = expected_keys.clone().to(device), expected_values.clone().to(device)
    weights = {name: (torch.rand(dim) + 0.5).to(dtype) for name in ("q_norm", "k_norm")} if norm else {}
    expected = rotate_and_write_reference(
        qkv, positions, inv_freq, slots, expected_keys, expected_values, heads, **weights, eps=1e-6,
        interleaved=rotary_dim is not None,
    )  # fmt: skip
    query = torch.full((num_tokens, heads, dim), torch.nan, dtype=dtype, device=device)
    inputs = [t.to(device) for t in (qkv, positions, inv_freq, slots)]
    on_device = {name: weight.to(device) for name, weight in weights.items()}
    rotate_and_write(*inputs, keys, values, query, **on_device, eps=1e-6, interleaved=rotary_dim is not None)
    if rotary_dim is not None:
        passed = qkv.view(num_tokens, -1, dim)[:, :heads, rotary_dim:]
        torch.testing.assert_close(query.cpu()[..., rotary_dim:], passed, atol=0, rtol=0)
    tolerance = {"atol": TOLERANCE[dtype], "rtol": TOLERANCE[dtype]}
    torch.testing.assert_close(query.cpu(), expected, **tolerance)
    torch.testing.assert_close(keys.cpu(), expected_keys, **tolerance)
    torch.testing.assert_close(values.cpu(), expected_values, atol=0, rtol=0)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("num_tokens", [1, 7])
def test_equals_the_reference(num_tokens: int, dtype: torch.dtype, device: torch.device) -> None:
    _check(num_tokens, 6, 3, 64, dtype, device)


@pytest.mark.parametrize("dim", [2, 80, 96, 128, 256])
def test_head_dims(dim: int, device: torch.device) -> None:
    _check(2, 4, 1, dim, torch.float32, device)


def test_many_tokens_and_heads(device: torch.device) -> None:
    _check(65, 40, 1, 16, torch.float32, device)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_heads_are_normalized_first(dtype: torch.dtype, device: torch.device) -> None:
    _check(3, 5, 2, 32, dtype, device, norm=True)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    ("num_tokens", "heads", "dim", "rotary_dim"), [(3, 4, 256, 64), (65, 5, 16, 6), (2, 3, 80, 80)]
)
def test_neighbours(
    num_tokens: int, heads: int, dim: int, rotary_dim: int, dtype: torch.dtype, device: torch.device
) -> None:
    _check(num_tokens, heads, heads, dim, dtype, device, rotary_dim=rotary_dim)


def test_heads_are_not_normalized_where_neighbours_are_rotated(device: torch.device) -> None:
    with pytest.raises(AssertionError):
        _check(2, 4, 4, 16, torch.float32, device, norm=True, rotary_dim=8)


@pytest.mark.parametrize(("sizes", "interleaved"), [((32, 8, 64), False), ((16, 16, 128), True)])
def test_slots_beyond_two_to_the_31_elements_are_reckoned_in_64_bits(
    sizes: tuple[int, int, int], interleaved: bool
) -> None:
    heads, kv_heads, half = sizes
    pointers = dict.fromkeys(("qkv", "q_norm", "k_norm", "query_out", "keys", "values"), "*bf16:16")
    signature = {**pointers, "positions": "*i32:16", "inv_freq": "*fp32:16", "slot_mapping": "*i64:16", "eps": "fp32"}
    constants = {"Q": heads, "K": kv_heads, "HALF": half, "HEADS": 8, "COLUMNS": half, "NORM": False}
    constants |= {"INTERLEAVED": interleaved, "OVERLAP": True}
    found = compile_kernel(
        "flover_backend.kernels.gpu.rotary", "_rotate_and_write_kernel", signature, constants, num_warps=half // 32
    )
    assert found.spilled_bytes == 0 and found.registers <= 128
