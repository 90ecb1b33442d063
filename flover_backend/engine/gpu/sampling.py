"""Chooses the tokens of sampled rows on the device and advances their row state. See kernels/gpu/sampling.py."""

from __future__ import annotations

import torch

from flover_backend.engine.gpu.rows import DeviceRows
from flover_backend.kernels.gpu.advance import advance
from flover_backend.kernels.gpu.argmax import argmax
from flover_backend.kernels.gpu.sampling import sample


class DeviceSampler:
    """Owns the sampler's scratch."""

    def __init__(self, rows: DeviceRows, eos_token_ids: tuple[int, ...]) -> None:
        self._rows = rows
        self._eos_ids = torch.tensor(eos_token_ids, dtype=torch.int32, device=rows.device)

    def sample(self, logits: torch.Tensor, row_index: torch.Tensor, greedy: bool) -> torch.Tensor:
        """logits [S, V] of the rows `row_index` [S] int32 -> token ids [S] int32; the rows advance by them.

        greedy: every row wants its largest logit and nothing else.
        """
        rows = self._rows
        token_ids = torch.empty(len(row_index), dtype=torch.int32, device=rows.device)
        if greedy:
            argmax(logits, token_ids)
        else:
            sample(
                logits, row_index, rows.state, rows.bias_ids, rows.bias_values, rows.mask_ids, rows.counts, token_ids
            )
        advance(token_ids, row_index, rows.state, self._eos_ids, rows.counts)
        return token_ids
