"""Random sequences scattered over blocks, NaN in every slot that is not theirs, and their attention in float64."""

from __future__ import annotations

import math
import random

import torch

TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}


class PagedCase:
    """Segments of (query_len, kv_len): the queries are the sequence's last positions. Segment i has row i + 1."""

    def __init__(
        self,
        segments: list[tuple[int, int]],
        shape: tuple[int, int, int, int],
        dtype: torch.dtype,
        device: torch.device,
        seed: int,
    ) -> None:
        heads, kv_heads, head_dim, block_size = shape
        self.segments, self.dtype, self.scale = segments, dtype, head_dim**-0.5
        generator = torch.Generator().manual_seed(seed)
        needed = [-(-kv_len // block_size) for _, kv_len in segments]
        ids = random.Random(seed).sample(range(1, sum(needed) + 3), sum(needed))
        wide = torch.randn(sum(q for q, _ in segments), heads + 2, head_dim, generator=generator)
        keys = torch.full((sum(needed) + 4, block_size, kv_heads, head_dim), math.nan)
        values = keys.clone()
        table = torch.zeros(len(segments) + 2, max(needed, default=0) + 1, dtype=torch.int32)
        self.dense: list[tuple[torch.Tensor, torch.Tensor]] = []
        for i, (_, kv_len) in enumerate(segments):
            blocks = torch.tensor([ids.pop() for _ in range(needed[i])], dtype=torch.int64)
            table[i + 1, : len(blocks)] = blocks
            key, value = (torch.randn(2, kv_len, kv_heads, head_dim, generator=generator) * 2).to(dtype)
            self.dense.append((key, value))
            position = torch.arange(kv_len)
            keys[blocks[position // block_size], position % block_size] = key.float()
            values[blocks[position // block_size], position % block_size] = value.float()
        self.query = wide.to(device, dtype)[:, :heads]
        self.keys, self.values = keys.to(device, dtype), values.to(device, dtype)
        self.table = table.to(device)

    def poisoned_out(self) -> torch.Tensor:
        return torch.full(
            (len(self.query), self.query[0].numel()), math.nan, dtype=self.dtype, device=self.table.device
        )

    def expected(self) -> torch.Tensor:
        """[T, heads * head_dim] float64 on the CPU."""
        rows, token = [], 0
        group = self.query.shape[1] // self.keys.shape[2]
        for (query_len, kv_len), dense in zip(self.segments, self.dense, strict=True):
            query = self.query[token : token + query_len].cpu().double()
            key, value = (t.double().repeat_interleave(group, 1) for t in dense)
            scores = torch.einsum("qhd,khd->hqk", query, key) * self.scale
            future = torch.ones(query_len, kv_len, dtype=torch.bool).triu(kv_len - query_len + 1)
            weights = scores.masked_fill(future, -math.inf).softmax(-1)
            rows.append(torch.einsum("hqk,khd->qhd", weights, value).flatten(1))
            token += query_len
        return torch.cat(rows)

    def assert_close(self, got: torch.Tensor, expected: torch.Tensor) -> None:
        tolerance = TOLERANCE[self.dtype]
        torch.testing.assert_close(got.cpu().double(), expected, atol=4 * tolerance, rtol=tolerance)
