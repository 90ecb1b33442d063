"""Chooses the tokens of sampled rows on the device and advances their row state. See kernels/gpu/sampling.py."""

from __future__ import annotations

import torch

from flover_backend.engine.gpu.rows import DeviceRows
from flover_backend.kernels.gpu.advance import advance
from flover_backend.kernels.gpu.argmax import ArgmaxScratch, argmax
from flover_backend.kernels.gpu.sampling import SamplingScratch, sample


class DeviceSampler:
    """Owns the sampler's scratch."""

    def __init__(self, rows: DeviceRows, vocab_size: int, eos_token_ids: tuple[int, ...]) -> None:
        self._rows = rows
        self._eos_ids = torch.tensor(eos_token_ids, dtype=torch.int32, device=rows.device)
        self._scratch = SamplingScratch.allocate(rows.num_rows, vocab_size, rows.device)
        self._argmax_scratch = ArgmaxScratch.allocate(rows.num_rows, vocab_size, rows.device)

    def sample(self, logits: torch.Tensor, row_index: torch.Tensor, greedy: bool) -> torch.Tensor:
        """logits [S, V] of the rows `row_index` [S] int32 -> token ids [S] int32; the rows advance by them.

        greedy: every row wants its largest logit and nothing else.
        """
        tables, counts = self._rows.tables, self._rows.counts
        chosen, token_ids = torch.empty((2, len(row_index)), dtype=torch.int32, device=logits.device).unbind(0)
        if greedy:
            argmax(logits, chosen, self._argmax_scratch)
        else:
            sample(
                logits,
                row_index,
                tables.state,
                tables.bias_ids,
                tables.bias_values,
                tables.mask_ids,
                counts,
                self._scratch,
                chosen,
            )
        advance(chosen, row_index, tables.state, self._eos_ids, counts, token_ids)
        return token_ids
