"""Drives a `Model` over a paged KV buffer with scattered blocks, as a runner would, in terms of whole sequences."""

from __future__ import annotations

import random

import torch

from flover_backend.kv.buffer import KVBuffer
from flover_backend.models.batch import ForwardBatch, Model


class Paged:
    """Owns a KV buffer and a scattered block table for a fixed number of sequences."""

    def __init__(self, model: Model, num_sequences: int, max_len: int, block_size: int = 16, seed: int = 0) -> None:
        per_sequence = -(-max_len // block_size)
        num_blocks = per_sequence * num_sequences + 3
        self.model, self.block_size = model, block_size
        self.kv = KVBuffer(
            model.num_layers, num_blocks, block_size, model.num_kv_heads, model.head_dim, model.dtype, model.device
        )
        for layer in (*self.kv.keys, *self.kv.values):
            layer.fill_(float("nan"))  # what another sequence may have left: must never be read
        ids = random.Random(seed).sample(range(1, num_blocks + 1), per_sequence * num_sequences)
        self.tables = [ids[i * per_sequence : (i + 1) * per_sequence] for i in range(num_sequences)]
        self.lengths = [0] * num_sequences

    def run(self, work: list[tuple[int, list[int]]]) -> list[torch.Tensor]:
        """Feed each (sequence, tokens); one-token entries must come first. Logits [len(tokens), vocab] of each."""
        num_decodes = sum(1 for _, tokens in work if len(tokens) == 1)
        assert all(len(tokens) == 1 for _, tokens in work[:num_decodes])
        batch = self._batch(work, num_decodes)
        with torch.inference_mode():
            logits = self.model.logits(self.model.forward(batch, self.kv))
        return list(logits.split([len(tokens) for _, tokens in work]))

    def _batch(self, work: list[tuple[int, list[int]]], num_decodes: int) -> ForwardBatch:
        ids, positions, slots, kv_lens = [], [], [], []
        for sequence, tokens in work:
            start = self.lengths[sequence]
            self.lengths[sequence] += len(tokens)
            kv_lens.append(self.lengths[sequence])
            ids += tokens
            for position in range(start, start + len(tokens)):
                block = self.tables[sequence][position // self.block_size]
                positions.append(position)
                slots.append(block * self.block_size + position % self.block_size)
        lens = [len(tokens) for _, tokens in work]
        used = [-(-n // self.block_size) for n in kv_lens]
        rows = [self.tables[s][:u] + [0] * (len(self.tables[s]) - u) for (s, _), u in zip(work, used, strict=True)]
        return ForwardBatch(
            input_ids=torch.tensor(ids),
            positions=torch.tensor(positions),
            slot_mapping=torch.tensor(slots),
            cu_seqlens_q=torch.tensor([0, *torch.tensor(lens).cumsum(0).tolist()], dtype=torch.int32),
            seqlens_k=torch.tensor(kv_lens, dtype=torch.int32),
            block_table=torch.tensor(rows, dtype=torch.int32),
            num_decodes=num_decodes,
            query_lens=lens,
            kv_lens=kv_lens,
        )
