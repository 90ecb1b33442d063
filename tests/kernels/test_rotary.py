"""Rotation against complex multiplication, and the write of keys and values against a loop."""

from __future__ import annotations

import pytest
import torch

from flover_backend.kernels.rotary import rotary_tables, rotate, write_kv

TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}


def _complex(x: torch.Tensor, positions: torch.Tensor, inv_freq: torch.Tensor) -> torch.Tensor:
    """Element pairs (i, i + head_dim / 2) as complex numbers, turned by position * frequency."""
    first, second = x.double().chunk(2, -1)
    angles = positions[:, None].float() * inv_freq  # float32: the product is part of the definition
    turn = torch.polar(torch.ones_like(angles, dtype=torch.float64), angles.double())
    turned = torch.complex(first, second) * turn[:, None]
    return torch.cat((turned.real, turned.imag), -1)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("tokens", "heads", "head_dim"), [(1, 12, 64), (16, 4, 128), (33, 3, 2), (5, 1, 24)])
def test_rotation_is_complex_multiplication(tokens: int, heads: int, head_dim: int, dtype: torch.dtype) -> None:
    torch.manual_seed(tokens)
    x, positions = torch.randn(tokens, heads, head_dim).to(dtype), torch.randint(0, 100_000, (tokens,))
    inv_freq = 10_000.0 ** -(torch.arange(0, head_dim, 2) / head_dim)
    out = rotate(x, *rotary_tables(positions, inv_freq, dtype))
    assert out.dtype == dtype and out.is_contiguous()
    torch.testing.assert_close(
        out.double(), _complex(x, positions, inv_freq), atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype]
    )


def test_position_zero_changes_nothing_and_the_input_stays() -> None:
    x = torch.randn(3, 7, 16)
    part, before = x[:, 2:5], x.clone()
    out = rotate(part, *rotary_tables(torch.zeros(3, dtype=torch.int64), torch.ones(8), torch.float32))
    assert torch.equal(out, part) and torch.equal(x, before)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("tokens", "kv_heads", "head_dim"), [(1, 1, 8), (16, 3, 64), (40, 2, 24)])
def test_write_kv(tokens: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    wide = torch.randn(2, tokens, kv_heads + 2, head_dim).to(dtype)
    key, value = wide[0, :, 1 : 1 + kv_heads], wide[1, :, 2:]
    keys, values = torch.zeros(2, 9, 8, kv_heads, head_dim, dtype=dtype)
    slots = torch.randperm(72)[:tokens]
    expected_keys, expected_values = keys.clone(), values.clone()
    for token, slot in enumerate(slots.tolist()):
        expected_keys[slot // 8, slot % 8], expected_values[slot // 8, slot % 8] = key[token], value[token]
    write_kv(key, value, keys, values, slots)
    assert torch.equal(keys, expected_keys) and torch.equal(values, expected_values)


def test_dead_rows_may_share_the_null_block() -> None:
    keys, values = torch.zeros(2, 3, 8, 1, 4)
    write_kv(torch.ones(3, 1, 4), torch.ones(3, 1, 4), keys, values, torch.tensor([0, 0, 8]))
    assert keys[0, 0].eq(1).all() and keys[1, 0].eq(1).all() and keys.sum() == 8


def test_launchers_refuse_other_shapes_and_dtypes() -> None:
    tables = rotary_tables(torch.arange(3), torch.ones(4), torch.float32)
    for x in (torch.randn(2, 1, 8), torch.randn(3, 1, 6), torch.randn(3, 1, 8).half()):
        with pytest.raises(AssertionError):
            rotate(x, *tables)
    keys, values = torch.zeros(2, 3, 8, 2, 4)
    key = torch.randn(3, 2, 4)
    for wrong in ((key[:, :1], key), (key.half(), key.half())):
        with pytest.raises(AssertionError):
            write_kv(*wrong, keys, values, torch.arange(3))
    with pytest.raises(AssertionError):
        write_kv(key, key, keys, values, torch.arange(3, dtype=torch.int32))
