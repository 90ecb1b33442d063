"""Prefill attention of packed prompts and chunks against the formula; the host's list of work against its invariant."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from compilation import compile_kernel
from grid import checkered
from hypothesis import given, settings
from hypothesis import strategies as st
from paged_case import PagedCase

from flover_backend.kernels.gpu.prefill_attention import (
    BLOCK_M,
    PrefillConfig,
    choose_config,
    prefill_attention,
    prefill_items,
)
from tests.kernels_gpu.conftest import HAS_GPU

DTYPES = [torch.float32, torch.float16, *([torch.bfloat16] if HAS_GPU else [])]  # the interpreter's bfloat16 is wrong
SHAPES = {
    "multi-head": (3, 3, 16, 16),
    "grouped": (8, 2, 32, 16),
    "a group of three": (6, 2, 24, 8),
    "one key-value head": (7, 1, 6, 32),
}
MIXES = {
    "one token": [(1, 1)],
    "one prompt": [(70, 70)],
    "packed prompts": [(5, 5), (64, 64), (17, 17)],
    "chunks": [(7, 50), (30, 93), (2, 130), (65, 129)],
    "more than an item": [(140, 150)],
}


def attend(case: PagedCase, spare: int = 2, config: PrefillConfig | None = None) -> torch.Tensor:
    chunks, begin = [], 0
    for row, (query_len, kv_len) in enumerate(case.segments, start=1):
        chunks.append((begin, query_len, row, kv_len - query_len))
        begin += query_len
    made = prefill_items(chunks)
    items = torch.full((len(made) + spare, 4), -7, dtype=torch.int32)
    items[: len(made)] = torch.from_numpy(made)
    device, out = case.table.device, case.poisoned_out()
    num_items = torch.tensor([len(made)], dtype=torch.int32, device=device)
    prefill_attention(
        case.query, case.keys, case.values, case.table, items.to(device), num_items, case.scale, out, len(items), config
    )
    return out


@pytest.mark.parametrize(("mix", "shape", "dtype"), checkered(MIXES, SHAPES, DTYPES), ids=str)
def test_equals_the_formula(mix: str, shape: str, dtype: torch.dtype, device: torch.device) -> None:
    case = PagedCase(MIXES[mix], SHAPES[shape], dtype, device, seed=len(mix))
    case.assert_close(attend(case), case.expected())


@pytest.mark.parametrize("block_size", [8, 64, 128])
@pytest.mark.parametrize("head_dim", [80, 256])
def test_block_sizes_and_head_dims(head_dim: int, block_size: int, device: torch.device) -> None:
    case = PagedCase([(9, 40), (33, 33)], (4, 2, head_dim, block_size), torch.float16, device, seed=block_size)
    case.assert_close(attend(case), case.expected())


@pytest.mark.parametrize("config", [PrefillConfig(16, 16, 1, 4), PrefillConfig(64, 128, 2, 4)], ids=str)
def test_other_configurations(config: PrefillConfig, device: torch.device) -> None:
    case = PagedCase([(40, 90), (3, 3)], (6, 2, 16, 16), torch.float16, device, seed=9)
    case.assert_close(attend(case, config=config), case.expected())


def test_other_tokens_are_left_alone(device: torch.device) -> None:
    case = PagedCase([(1, 30), (6, 6)], SHAPES["grouped"], torch.float16, device, seed=10)
    items = torch.from_numpy(prefill_items([(1, 6, 2, 0)])).to(device)
    out = case.poisoned_out()
    one = torch.ones(1, dtype=torch.int32, device=device)
    prefill_attention(case.query, case.keys, case.values, case.table, items, one, case.scale, out, 1)
    assert out[0].isnan().all()
    case.assert_close(out[1:], case.expected()[1:])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 700), st.integers(0, 500)), max_size=12))
def test_items_cover_every_query_once_longest_first(lens: list[tuple[int, int]]) -> None:
    begins = np.cumsum([0] + [length for length, _ in lens]).tolist()
    chunks = [(begins[i], length, 100 + i, start) for i, (length, start) in enumerate(lens)]
    items = prefill_items(chunks)
    assert items.dtype == np.int32 and items.shape[1:] == (4,)
    assert len(items) <= begins[-1] // BLOCK_M + len(chunks)
    covered = sorted(
        (row, token + i, position + i) for token, count, row, position in items.tolist() for i in range(count)
    )
    assert covered == [(row, first + i, start + i) for first, n, row, start in chunks for i in range(n)]
    assert all(1 <= count <= BLOCK_M for count in items[:, 1])
    work = (items[:, 3].astype(int) + items[:, 1]) * items[:, 1]
    assert (np.diff(work) <= 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("group", [33, 71, 130])
def test_a_program_holds_all_heads_that_share_keys(group: int, dtype: torch.dtype) -> None:
    assert all(choose_config(tokens, group, 64, dtype).rows >= group for tokens in (1, 8192))


def test_one_key_value_head_of_many(device: torch.device) -> None:
    case = PagedCase(MIXES["packed prompts"][:1], (40, 1, 16, 16), torch.float32, device, seed=1)
    case.assert_close(attend(case), case.expected())


@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim", "tokens", "spilled_bytes"),
    [
        (40, 40, 128, 8192, 0),
        (32, 8, 128, 8192, 0),
        pytest.param(16, 16, 256, 8192, 40, marks=pytest.mark.slow),
        pytest.param(16, 16, 256, 8, 0, marks=pytest.mark.slow),
    ],
)
def test_compiles_for_hopper(heads: int, kv_heads: int, dim: int, tokens: int, spilled_bytes: int) -> None:
    group = heads // kv_heads
    config = choose_config(tokens, group, dim, torch.bfloat16)
    signature = dict.fromkeys(("query", "keys", "values", "out"), "*bf16:16")
    signature |= dict.fromkeys(("block_table", "items", "num_items"), "*i32:16")
    signature |= {"scale": "fp32", "query_stride": "i32:16", "table_stride": "i32:16"}
    constants = {
        "KV_HEADS": kv_heads, "GROUP": group, "HEAD_DIM": dim, "DIM": dim, "BLOCK_SIZE": 16, "ROWS": config.rows,
        "QUERIES": config.rows // group, "BLOCK_N": config.block_n, "STAGES": config.stages, "OVERLAP": True,
    }  # fmt: skip
    module = "flover_backend.kernels.gpu.prefill_attention"
    used = compile_kernel(module, "_prefill_kernel", signature, constants, num_warps=config.num_warps)
    assert used.spilled_bytes <= spilled_bytes
    assert used.shared_bytes <= 227 * 1024
