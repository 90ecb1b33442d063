"""Blocks copied in every layer at once, against the KV buffer's own copy."""

from __future__ import annotations

import random

import pytest
import torch
from compilation import compile_kernel

from flover_backend.kernels.gpu.block_copy import LayerPointers, copy_blocks
from flover_backend.kv.buffer import KVBuffer


def filled(seed: int, block_size: int, dtype: torch.dtype, device: torch.device) -> KVBuffer:
    kv = KVBuffer(3, 12, block_size, 5, 26, dtype, device)
    generator = torch.Generator().manual_seed(seed)
    for tensor in (*kv.keys, *kv.values):
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return kv


@pytest.mark.parametrize("block_size", [8, 64])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("num_pairs", [0, 1, 4])
def test_equals_the_buffer_s_own_copy(
    num_pairs: int, dtype: torch.dtype, block_size: int, device: torch.device
) -> None:
    kv, expected = (filled(num_pairs, block_size, dtype, device) for _ in range(2))
    ids = random.Random(num_pairs).sample(range(1, 13), 10)
    pairs = list(zip(ids[:5], ids[5:], strict=True))  # one more than is copied
    tensors = (*kv.keys, *kv.values)
    copy_blocks(LayerPointers(tensors), torch.tensor(pairs, dtype=torch.int32, device=device), num_pairs)
    expected.copy_blocks(pairs[:num_pairs])
    for got, want in zip(tensors, (*expected.keys, *expected.values), strict=True):
        assert torch.equal(got, want)


def test_one_source_may_have_many_destinations(device: torch.device) -> None:
    kv = filled(7, 8, torch.float16, device)
    pairs = torch.tensor([[3, 4], [3, 9], [3, 1]], dtype=torch.int32, device=device)
    copy_blocks(LayerPointers([*kv.keys, *kv.values]), pairs, 3)
    assert all(torch.equal(t[3], t[block]) for t in (*kv.keys, *kv.values) for block in (4, 9, 1))


def test_compiles_for_hopper() -> None:
    signature = {"base": "*i32:16", "offsets": "*i64:16", "pairs": "*i32:16"}
    constants = {"BLOCK_WORDS": 40960, "WORDS": 4096, "OVERLAP": True}
    used = compile_kernel("flover_backend.kernels.gpu.block_copy", "_copy_kernel", signature, constants)
    assert used.spilled_bytes == 0 and used.registers <= 64
