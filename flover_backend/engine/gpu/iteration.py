"""The pieces of an iteration on the device, as functions that graphs record: decode, body, head.

`decode` is a whole iteration of decoding rows. One that mixes prompts in is `body` (up to the sampled tokens' hidden
states), then `head` (logits, sampling, row state). Knows tensors only: no plan, no request.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from flover_backend.engine.gpu.attention import BlockAttention
from flover_backend.engine.gpu.inputs import SampleInputs, TokenInputs
from flover_backend.engine.gpu.rows import DeviceRows
from flover_backend.engine.gpu.sampling import DeviceSampler
from flover_backend.kernels.gpu.prepare import prepare_decode, prepare_mixed
from flover_backend.kernels.prepare import PreparedTokens
from flover_backend.kv.buffer import KVBuffer
from flover_backend.models.batch import FusedModel


@dataclass(frozen=True, slots=True)
class Sampled:
    """token_ids [S] int32; logits [S, vocab_size] as the model gave them, untouched by any parameter."""

    token_ids: torch.Tensor
    logits: torch.Tensor


class Iteration:
    """One model on one KV buffer with one row state."""

    def __init__(
        self, model: FusedModel, kv: KVBuffer, rows: DeviceRows, attention: BlockAttention, sampler: DeviceSampler
    ) -> None:
        self._model = model
        self._kv = kv
        self._rows = rows
        self._attention = attention
        self._sampler = sampler
        num_rows = rows.num_rows
        self.sampled_hidden = torch.zeros((num_rows, model.hidden_size), dtype=model.dtype, device=rows.device)
        """[R, hidden_size]: what `body` leaves for `head`"""
        self._logits = torch.zeros((num_rows, rows.vocab_size), dtype=model.dtype, device=rows.device)
        """[R, vocab_size]: of one iteration at a time, so that graphs share it"""
        self._own_rows = torch.arange(num_rows, dtype=torch.int32, device=rows.device)

    def decode(self, num_rows: int, greedy: bool) -> Sampled:
        """Rows 0 .. num_rows-1 advance by a token."""
        tokens = PreparedTokens.empty(num_rows, self._rows.device)
        prepare_decode(self._rows.tables.state, self._rows.block_table, self._kv.block_size, tokens)
        self._attention.plan(tokens, None, has_decodes=True)
        hidden = self._model.forward(tokens, self._kv, self._attention)
        return self._sample(hidden, self._own_rows[:num_rows], greedy)

    def body(self, inputs: TokenInputs, samples: SampleInputs, num_tokens: int, has_decodes: bool) -> None:
        """The tokens of `inputs`, padded to `num_tokens`; the hidden states that `samples` names are kept.

        has_decodes: some of the tokens may be decoding rows'.
        """
        tokens = PreparedTokens.empty(num_tokens, self._rows.device)
        prepare_mixed(inputs.given, self._rows.tables.state, self._rows.block_table, self._kv.block_size, tokens)
        self._attention.plan(tokens, inputs, has_decodes)
        hidden = self._model.forward(tokens, self._kv, self._attention)
        torch.index_select(hidden, 0, samples.places, out=self.sampled_hidden)

    def head(self, samples: SampleInputs, num_sampled: int, greedy: bool) -> Sampled:
        """Tokens for the first `num_sampled` of the sampled rows."""
        return self._sample(self.sampled_hidden[:num_sampled], samples.rows[:num_sampled], greedy)

    def _sample(self, hidden: torch.Tensor, rows: torch.Tensor, greedy: bool) -> Sampled:
        logits = self._logits[: len(hidden)]
        self._model.logits(hidden, logits)
        return Sampled(self._sampler.sample(logits, rows, greedy), logits)
