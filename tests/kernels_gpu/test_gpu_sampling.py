"""The sampler's kernels against the CPU's arithmetic, row by row, and what bad logits get."""

from __future__ import annotations

import random

import pytest
import torch

from flover_backend.kernels.gpu import sampling as subject
from flover_backend.kernels.gpu import sampling_statistics
from flover_backend.request import SamplingParams
from tests.kernels_gpu.compilation import compile_kernel
from tests.kernels_gpu.grid import checkered
from tests.kernels_gpu.sampling_case import NEAR_TIE, DeviceRows, Row, differences, random_row, reference_token

KINDS = ["greedy", "temperature", "top_k", "top_p", "min_p", "penalties", "bias", "min_tokens", "mix"]


def random_logits(seed: int, num_rows: int, vocab_size: int, scale: float = 4.0) -> torch.Tensor:
    return torch.randn((num_rows, vocab_size), generator=torch.Generator().manual_seed(seed)) * scale


def assert_equal_but_at_near_ties(rows: list[Row], logits: torch.Tensor, tokens: list[int], max_ties: int) -> None:
    wrong = differences(rows, logits, tokens)
    assert all(difference.margin < NEAR_TIE for difference in wrong), wrong
    assert len(wrong) <= max_ties, wrong


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vocab_size", [37, 9000])
def test_tokens_equal_the_references(device: torch.device, kind: str, vocab_size: int) -> None:
    source = random.Random(f"{kind} {vocab_size}")
    rows = [random_row(source, vocab_size, kind) for _ in range(8)]
    logits = random_logits(vocab_size, len(rows), vocab_size).to(device)
    tokens = DeviceRows(rows, vocab_size, device).sample(logits)
    assert_equal_but_at_near_ties(rows, logits, tokens.tolist(), max_ties=1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rows_of_half_precision_and_strides(device: torch.device, dtype: torch.dtype) -> None:
    source = random.Random(str(dtype))
    rows = [random_row(source, 5000, "mix") for _ in range(6)]
    logits = random_logits(2, len(rows), 5050).to(device, dtype)[:, :5000]
    tokens = DeviceRows(rows, 5000, device).sample(logits)
    assert_equal_but_at_near_ties(rows, logits, tokens.tolist(), max_ties=1)


@pytest.mark.parametrize(
    ("scale", "top_k", "top_p"),
    checkered([0.0, 0.01, 1.0, 12.0], [(0, 0.3), (0, 0.9), (0, 0.9999), (40, 1.0), (6000, 1.0), (6000, 0.5)]),
)
def test_floors_of_flat_and_peaked_rows(device: torch.device, scale: float, top_k: int, top_p: float) -> None:
    """All rows equal but their seeds, so that the draws tell a wrong floor; scale 0: all weights are equal."""
    params = [SamplingParams(max_tokens=9, temperature=1.0, top_k=top_k, top_p=top_p, seed=s) for s in (1, 2)]
    rows = [Row(p, [1], [2]) for p in params]
    logits = random_logits(5, 1, 10007, scale).expand(2, -1).contiguous().to(device)
    tokens = DeviceRows(rows, 10007, device).sample(logits)
    assert_equal_but_at_near_ties(rows, logits, tokens.tolist(), max_ties=2)
    for row, token in zip(rows, tokens.tolist(), strict=True):
        assert abs(token - reference_token(row, logits[0])) <= 4, "a neighbour in id order at most"


def test_a_seed_of_64_bits_and_the_position_make_the_draw(device: torch.device) -> None:
    seeds = [0, 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]
    rows = [
        Row(SamplingParams(max_tokens=9, temperature=1.0, seed=seed), [1] * n, [2]) for seed in seeds for n in (1, 700)
    ]
    logits = random_logits(6, 1, 30, 0.1).expand(len(rows), -1).contiguous().to(device)
    tokens = DeviceRows(rows, 30, device).sample(logits).tolist()
    assert_equal_but_at_near_ties(rows, logits, tokens, max_ties=0)
    assert len(set(tokens)) > 4


def test_bad_logits_stay_in_their_row(device: torch.device) -> None:
    source = random.Random(4)
    vocab_size = 9000
    kinds = ["greedy", "temperature", "top_k", "top_p", "penalties", "mix"]
    rows = [random_row(source, vocab_size, kind) for kind in kinds for _ in range(5)]
    logits = random_logits(8, len(rows), vocab_size)
    logits[0::5] = torch.nan
    logits[1::5, ::3] = torch.nan
    logits[2::5] = -torch.inf
    logits[3::5, 17] = torch.inf
    tokens = DeviceRows(rows, vocab_size, device).sample(logits.to(device)).tolist()
    assert all(0 <= token < vocab_size for token in tokens)
    assert tokens[3] == 17
    good = slice(4, None, 5)
    assert_equal_but_at_near_ties(rows[good], logits[good], tokens[good], max_ties=1)


def test_a_batch_padded_with_the_dead_row_and_sampled_twice_is_the_same(device: torch.device) -> None:
    source = random.Random(9)
    rows = [random_row(source, 700, "mix") for _ in range(4)]
    logits = random_logits(9, 8, 700).to(device)
    tables = DeviceRows(rows, 700, device)
    dead = torch.full((4,), 2 * len(rows), dtype=torch.int32, device=device)
    padded = torch.cat((tables.index, dead))
    before = [table.clone() for table in tables.tables]
    first, second = tables.sample(logits, padded), tables.sample(logits, padded)
    assert first.equal(second)
    assert all(a.equal(b) for a, b in zip(before, tables.tables, strict=True))
    assert first[4:].tolist() == logits[4:].argmax(1).tolist()
    assert_equal_but_at_near_ties(rows, logits[:4], first[:4].tolist(), max_ties=1)


def test_all_tokens_masked_still_gives_one(device: torch.device) -> None:
    params = [
        SamplingParams(max_tokens=9, min_tokens=9, temperature=t, stop_token_ids=tuple(range(64)), seed=5)
        for t in (0.0, 1.0)
    ]
    rows = [Row(p, [1], [2]) for p in params]
    tokens = DeviceRows(rows, 64, device).sample(random_logits(1, 2, 64).to(device)).tolist()
    assert tokens[0] == 0
    assert 0 <= tokens[1] < 64


def test_what_cannot_be_is_refused(device: torch.device) -> None:
    tables = DeviceRows([random_row(random.Random(1), 50, "mix")], 50, device)
    for logits, message in (
        (torch.randn((1, 60), device=device), "counts"),
        (torch.randn((50, 1), device=device).T.expand(2, -1)[:, ::2], "strides"),
        (torch.randn((3, 50), device=device), "int32 vectors of 3"),
    ):
        with pytest.raises(ValueError, match=message):
            tables.sample(logits, tables.index)
    with pytest.raises(ValueError, match="scratch"):
        tables.sample(torch.randn((9, 50), device=device), tables.index.repeat(9))


TYPES = {
    "logits": "*fp16:16", "processed": "*fp32:16", "maxima": "*fp32:16", "sums": "*fp64:16", "bias_values": "*fp32:16",
    "candidates": "*fp32:16", "vocab_size": "i32:16", "row_stride": "i32:16",
    "candidate_ids": "*i32:16",
} | dict.fromkeys(("rows", "state", "bias_ids", "mask_ids", "counts", "ids", "out"), "*i32:16")  # fmt: skip
STATISTICS = (
    "logits rows state bias_ids bias_values mask_ids counts processed maxima ids sums vocab_size row_stride",
    8,
)
CHOOSE = "logits rows state processed maxima ids sums candidates candidate_ids out vocab_size row_stride"


@pytest.mark.parametrize("num_rows", [1, 256])
def test_choosing_compiles_with_few_spills(num_rows: int) -> None:
    constants = {"CHUNK": 4096, "PARTS": 32, "TILE": 8192, "TILES": 16, "OVERLAP": True}
    options = {"num_warps": subject.choose_warps(num_rows), "enable_fp_fusion": False}
    types = {name: TYPES[name] for name in CHOOSE.split()}
    assert compile_kernel(subject.__name__, "_choose_kernel", types, constants, **options).spilled_bytes < 256


def test_statistics_compile_without_spills() -> None:
    names, num_warps = STATISTICS
    types = {name: TYPES[name] for name in names.split()}
    constants = {"CHUNK": 4096, "OVERLAP": True}
    resources = compile_kernel(
        sampling_statistics.__name__, "statistics_kernel", types, constants, num_warps=num_warps, enable_fp_fusion=False
    )
    assert resources.spilled_bytes == 0
