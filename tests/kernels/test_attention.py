"""Attention over blocks against a formula written out token by token in float64, with NaN in every foreign slot."""

from __future__ import annotations

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flover_backend.kernels.attention import attention, build_index, group_by_length
from flover_backend.models.batch import ForwardBatch

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}


class Case:
    """Random keys and values of segments (query_len, kv_len), scattered over blocks; everything else is NaN."""

    def __init__(
        self, segments: list[tuple[int, int]], heads: int, kv_heads: int, head_dim: int, block_size: int
    ) -> None:
        self.segments = segments
        generator = torch.Generator().manual_seed(len(segments) * 1000 + heads)
        num_blocks = [-(-kv_len // block_size) for _, kv_len in segments]
        ids = random.Random(1).sample(range(1, sum(num_blocks) + 3), sum(num_blocks))
        self.query = torch.randn(sum(q for q, _ in segments), heads, head_dim, generator=generator)
        self.keys = torch.full((sum(num_blocks) + 4, block_size, kv_heads, head_dim), math.nan)
        self.values = self.keys.clone()
        self.table = torch.zeros(len(segments), max(num_blocks) + 1, dtype=torch.int32)
        self.dense: list[tuple[torch.Tensor, torch.Tensor]] = []
        for i, (_, kv_len) in enumerate(segments):
            blocks = [ids.pop() for _ in range(num_blocks[i])]
            self.table[i, : len(blocks)] = torch.tensor(blocks)
            key, value = torch.randn(2, kv_len, kv_heads, head_dim, generator=generator) * 2
            self.dense.append((key, value))
            for position in range(kv_len):
                at = blocks[position // block_size], position % block_size
                self.keys[at], self.values[at] = key[position], value[position]

    def batch(self) -> ForwardBatch:
        lens, kv_lens = [q for q, _ in self.segments], [k for _, k in self.segments]
        return ForwardBatch(
            input_ids=torch.zeros(sum(lens), dtype=torch.int64),
            positions=torch.zeros(sum(lens), dtype=torch.int64),
            slot_mapping=torch.zeros(sum(lens), dtype=torch.int64),
            cu_seqlens_q=torch.tensor([0, *lens]).cumsum(0).int(),
            seqlens_k=torch.tensor(kv_lens, dtype=torch.int32),
            block_table=self.table,
            num_decodes=sum(1 for n in lens if n == 1),
            query_lens=lens,
            kv_lens=kv_lens,
        )

    def naive(self, dtype: torch.dtype) -> torch.Tensor:
        """One token and one head at a time."""
        rows, token = [], 0
        group = self.query.shape[1] // self.keys.shape[2]
        scale = self.query.shape[2] ** -0.5
        for (query_len, kv_len), (key, value) in zip(self.segments, self.dense, strict=True):
            for i in range(query_len):
                seen = kv_len - query_len + i + 1
                for head in range(self.query.shape[1]):
                    k, v = (t[:seen, head // group].to(dtype).double() for t in (key, value))
                    weights = (k @ self.query[token, head].to(dtype).double() * scale).exp()
                    rows.append((weights[:, None] * v).sum(0) / weights.sum())
                token += 1
        return torch.stack(rows).view(token, -1)


MIXES = {
    "one row": [(1, 1)],
    "rows of mixed lengths": [(1, n) for n in (1, 300, 16, 17, 40, 41, 2, 150)],
    "first tokens": [(1, 1)] * 5,
    "prompt": [(37, 37)],
    "packed prompts": [(5, 5), (64, 64), (16, 16)],
    "chunks": [(7, 50), (30, 33), (2, 130)],
    "decode, chunk, prompt": [(1, 20), (1, 180), (16, 48), (9, 9)],
}
SHAPES = [(4, 4, 16, 16), (6, 2, 8, 8), (9, 3, 64, 16), (5, 1, 24, 32)]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("mix", MIXES)
def test_equals_the_formula(mix: str, shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    case = Case(MIXES[mix], *shape)
    keys, values = case.keys.to(dtype), case.values.to(dtype)
    out = attention(case.query.to(dtype), keys, values, build_index(case.batch(), keys), shape[2] ** -0.5)
    assert out.dtype == dtype and out.shape == (len(case.query), shape[0] * shape[2])
    torch.testing.assert_close(out.double(), case.naive(dtype), atol=TOLERANCE[dtype] * 4, rtol=TOLERANCE[dtype])


def test_query_may_be_a_part_of_wider_rows() -> None:
    case = Case(MIXES["rows of mixed lengths"], 6, 2, 8, 8)
    wide = torch.randn(len(case.query), 10, 8)
    wide[:, :6] = case.query
    out = attention(wide[:, :6], case.keys, case.values, build_index(case.batch(), case.keys), 8**-0.5)
    torch.testing.assert_close(out.double(), case.naive(torch.float32), atol=1e-5, rtol=1e-5)


def test_launcher_refuses_other_dtypes_and_strides() -> None:
    case = Case([(1, 3)], 4, 2, 8, 8)
    index = build_index(case.batch(), case.keys)
    for query, keys in (
        (case.query.half(), case.keys),
        (case.query[:, :3], case.keys),
        (case.query, case.keys.transpose(1, 2)),
        (case.query.transpose(1, 2).contiguous().transpose(1, 2), case.keys),
    ):
        with pytest.raises(AssertionError):
            attention(query, keys, case.values, index, 1.0)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 9000), max_size=40), st.integers(1, 20_000))
def test_groups_hold_each_row_once_and_pad_little(lens: list[int], max_tokens: int) -> None:
    groups = group_by_length(lens, max_tokens)
    assert sorted(row for group in groups for row in group) == list(range(len(lens)))
    for group in groups:
        assert group == sorted(group)
        longest, shortest = max(lens[row] for row in group), min(lens[row] for row in group)
        assert longest <= max(64, 2 * shortest)
        assert len(group) == 1 or len(group) * longest <= max_tokens
