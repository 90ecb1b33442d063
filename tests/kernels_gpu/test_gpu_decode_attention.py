"""Decode attention against the formula, with every way a sequence can be cut; the plan against its own invariant."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import product

import pytest
import torch
from compilation import compile_kernel
from grid import checkered
from paged_case import PagedCase

from flover_backend.kernels.gpu.decode_attention import QUANTUM, DecodeAttention, DecodeConfig, choose_config
from tests.kernels_gpu.conftest import HAS_GPU

KERNELS = "flover_backend.kernels.gpu"
DTYPES = [torch.float32, torch.float16, *([torch.bfloat16] if HAS_GPU else [])]  # the interpreter's bfloat16 is wrong
SHAPES = {
    "multi-head": (4, 4, 16, 16),
    "heads that fill no bundle": (5, 5, 24, 8),
    "grouped": (6, 2, 32, 16),
    "one key-value head": (7, 1, 16, 32),
}
MIXES = {
    "one short row": [1],
    "one long row": [300],
    "mixed": [1, 130, 16, 17, 40, 2, 97],
    "equal": [33] * 5,
}


def attend(case: PagedCase, lens: list[int], config: DecodeConfig | None = None, repeats: int = 1) -> torch.Tensor:
    _, block_size, kv_heads, head_dim = case.keys.shape
    device, heads = case.table.device, case.query.shape[1]
    attention = DecodeAttention(
        len(lens) + 3, heads, kv_heads, head_dim, block_size, case.table.shape[1], case.dtype, device, config
    )
    rows = torch.arange(1, len(lens) + 1, dtype=torch.int32, device=device)
    out = case.poisoned_out()
    for _ in range(repeats):
        out = case.poisoned_out()
        attention.plan(torch.tensor(lens, dtype=torch.int32, device=device), rows)
        rows.add_(0)  # as run() demands: something between them
        attention.run(case.query, case.keys, case.values, case.table, case.scale, out)
    return out


@pytest.mark.parametrize(("mix", "shape", "dtype"), checkered(MIXES, SHAPES, DTYPES), ids=str)
def test_equals_the_formula(mix: str, shape: str, dtype: torch.dtype, device: torch.device) -> None:
    lens = MIXES[mix]
    case = PagedCase([(1, n) for n in lens], SHAPES[shape], dtype, device, seed=len(mix))
    case.assert_close(attend(case, lens), case.expected())


@pytest.mark.parametrize("shape", ["multi-head", "grouped"])
def test_tokens_that_do_not_decode_are_left_alone(shape: str, device: torch.device) -> None:
    lens = [20, 70, 5, 48]
    case = PagedCase([(1, n) for n in lens], SHAPES[shape], torch.float16, device, seed=3)
    out, expected = attend(case, [0, 70, 0, 48]), case.expected()
    case.assert_close(out[[1, 3]], expected[[1, 3]])
    assert out[[0, 2]].isnan().all()
    assert attend(case, [0, 0, 0, 0]).isnan().all()


@pytest.mark.parametrize("shape", ["multi-head", "grouped"])
def test_counters_are_ready_for_the_next_iteration(shape: str, device: torch.device) -> None:
    lens = [150, 3, 64]
    case = PagedCase([(1, n) for n in lens], SHAPES[shape], torch.float32, device, seed=4)
    case.assert_close(attend(case, lens, repeats=3), case.expected())


@pytest.mark.parametrize("shape", ["multi-head", "grouped"])
@pytest.mark.parametrize(("tile", "stages", "min_quanta"), [(32, 2, 1), (8, 1, 3), (16, 3, 2)])
def test_other_configurations(shape: str, tile: int, stages: int, min_quanta: int, device: torch.device) -> None:
    lens = [70, 1, 200, 33]
    heads, kv_heads, head_dim, _ = SHAPES[shape]
    config = choose_config(heads, kv_heads, head_dim, torch.float16)
    tile = max(tile, 16)
    config = replace(config, tile=tile, stages=stages, min_quanta=min_quanta)
    case = PagedCase([(1, n) for n in lens], SHAPES[shape], torch.float16, device, seed=5)
    case.assert_close(attend(case, lens, config), case.expected())


@pytest.mark.parametrize(("head_dim", "block_size"), [*product((6, 80), (8, 32, 128)), (256, 16)])
def test_block_sizes_and_odd_head_dims(head_dim: int, block_size: int, device: torch.device) -> None:
    lens = [5, 140]
    for heads, kv_heads in ((3, 3), (4, 2)):
        case = PagedCase([(1, n) for n in lens], (heads, kv_heads, head_dim, block_size), torch.float32, device, seed=6)
        case.assert_close(attend(case, lens), case.expected())


def test_pieces_cover_every_sequence_once(device: torch.device) -> None:
    draw = random.Random(8)
    for num_tokens in (1, 9, 40):
        lens = [draw.choice((0, draw.randint(1, 40), draw.randint(1, 4000))) for _ in range(num_tokens)]
        lens[0] = 3000
        attention = DecodeAttention(num_tokens, 4, 1, 128, 16, 256, torch.float16, device)
        rows = torch.arange(num_tokens, dtype=torch.int32, device=device) + 7
        attention.plan(torch.tensor(lens, dtype=torch.int32, device=device), rows)
        pieces = [piece for piece in attention._pieces.tolist() if piece[3] > piece[2]]
        sizes = {stop - start for _, _, start, stop, _, _ in (p[:6] for p in pieces)}
        size = max(sizes)
        counts = [-(-n // size) for n in lens]
        expected = [
            [token, token + 7, i * size, min((i + 1) * size, lens[token]), sum(counts[:token]), counts[token]]
            for token in range(num_tokens)
            for i in range(counts[token])
        ]
        assert [p[:6] for p in pieces] == expected
        assert len(pieces) <= attention._planned and (size % QUANTUM == 0 or size == max(lens))
        if num_tokens == 1:
            assert len(pieces) > 4, "a long sequence alone is spread over the chip"


@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(40, 40, 128), (32, 8, 128), (16, 16, 256)])
def test_compiles_for_hopper(heads: int, kv_heads: int, dim: int) -> None:
    config = choose_config(heads, kv_heads, dim, torch.float16)
    pointers = dict.fromkeys(("query", "keys", "values", "out"), "*fp16:16")
    pointers |= dict.fromkeys(("block_table", "pieces", "counters"), "*i32:16")
    pointers |= dict.fromkeys(("partial_results", "partial_weights"), "*fp32:16")
    signature = pointers | {"scale": "fp32", "query_stride": "i32:16", "table_stride": "i32:16"}
    constants = {
        "KV_HEADS": kv_heads, "GROUP": heads // kv_heads, "HEAD_DIM": dim, "DIM": dim, "BLOCK_SIZE": 16,
        "HEADS": config.heads, "TILE": config.tile, "STAGES": config.stages, "OUT_HEADS": heads // kv_heads, "PARTS": 8,
        "OVERLAP": True,
    }  # fmt: skip
    used = compile_kernel(f"{KERNELS}.decode_kernel", "decode_kernel", signature, constants, num_warps=config.num_warps)
    assert used.spilled_bytes <= 128, "a few bytes of one warp cost less than a second warp's barriers"
    assert used.registers * 32 * config.num_warps * config.programs_per_sm <= 65536
    assert used.shared_bytes * config.programs_per_sm <= 227 * 1024


def test_plan_compiles_for_hopper() -> None:
    found = compile_kernel(
        f"{KERNELS}.decode_plan",
        "plan_kernel",
        dict.fromkeys(("decode_lens", "token_rows", "pieces"), "*i32:16") | {"num_tokens": "i32", "resident": "i32"},
        {"QUANTUM": QUANTUM, "MIN_QUANTA": 2, "ROUNDS": 4, "START_COST": 4, "BLOCK": 256, "OVERLAP": True},
        num_warps=1,
    )
    assert found.spilled_bytes == 0
