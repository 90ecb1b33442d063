"""Attention of one iteration's tokens over the blocks: decoding tokens by one kernel, chunks by another.

Knows the order of the tokens (decoding ones first) and the work lists; nothing of layers or weights.
"""

from __future__ import annotations

import torch

from flover_backend.engine.gpu.inputs import TokenInputs
from flover_backend.kernels.gpu.decode_attention import DecodeAttention
from flover_backend.kernels.gpu.prefill_attention import prefill_attention
from flover_backend.kernels.prepare import PreparedTokens


class BlockAttention:
    """`plan` once an iteration, then a call for each layer. One thread, one stream."""

    def __init__(self, decode: DecodeAttention, max_decodes: int, block_table: torch.Tensor, scale: float) -> None:
        """`max_decodes`: most tokens that decode in an iteration; block_table [R, max_blocks] int32."""
        self._decode = decode
        self._max_decodes = max_decodes
        self._block_table = block_table
        self._scale = scale
        self._tokens: PreparedTokens | None = None
        self._inputs: TokenInputs | None = None
        self._has_decodes = False

    def plan(self, tokens: PreparedTokens, inputs: TokenInputs | None, has_decodes: bool) -> None:
        """Make the work lists of `tokens`: of those that decode, if any may; `inputs` names the chunks among them."""
        self._tokens, self._inputs, self._has_decodes = tokens, inputs, has_decodes
        if not has_decodes:
            return
        some = slice(self._max_decodes)
        self._decode.plan(tokens.decode_lens[some], tokens.token_rows[some])

    def __call__(self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """query [T, heads, head_dim]; keys, values of one layer -> [T, heads * head_dim]."""
        tokens, inputs = self._tokens, self._inputs
        assert tokens is not None
        out = query.new_empty((len(query), query.shape[1] * query.shape[2]))
        if self._has_decodes:
            some = slice(self._max_decodes)
            self._decode.run(query[some], keys, values, self._block_table, self._scale, out[some])
        if inputs is not None:
            prefill_attention(
                query, keys, values, self._block_table, inputs.items, inputs.num_items, self._scale, out,
                inputs.max_items_of(len(query)),
            )  # fmt: skip
        return out
