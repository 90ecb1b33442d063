"""LLaMA and its near relatives in fused GPU kernels: the mathematics of models/llama.py, six to nine launches a layer.

Knows its weights and the kernels; nothing of rows, requests, sampling or graphs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from flover_backend.kernels.gpu.embedding import embed
from flover_backend.kernels.gpu.norm import rms_norm
from flover_backend.kernels.gpu.products import Products
from flover_backend.kernels.gpu.rotary import rotate_and_write
from flover_backend.kernels.prepare import PreparedTokens
from flover_backend.kv.buffer import KVBuffer
from flover_backend.models.llama import LlamaLayer, LlamaModel

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(query [T, heads, head_dim], a layer's keys, its values) -> [T, heads * head_dim]"""


class GpuLlama:
    """Implements models/batch.py's `FusedModel` with the weights of a `LlamaModel`."""

    def __init__(self, model: LlamaModel) -> None:
        self._model = model
        self._config = model.config
        self.hidden_size, self.dtype = model.config.hidden_size, model.dtype
        self._products = Products(model.device, model.config.rms_norm_eps)

    def forward(self, tokens: PreparedTokens, kv: KVBuffer, attend: Attend) -> torch.Tensor:
        """Write the tokens' keys and values into `kv`; hidden states [T, hidden_size] after the final norm."""
        products, model = self._products, self._model
        residual = model.embedding.new_empty((len(tokens.input_ids), self.hidden_size))
        embed(tokens.input_ids, model.embedding, residual)
        for layer, keys, values in zip(model.layers, kv.keys, kv.values, strict=True):
            query = self._rotate(layer, products.normed(residual, layer.input_norm, layer.qkv), tokens, keys, values)
            products.add(attend(query, keys, values), layer.output, residual)
            products.add(products.gated(residual, layer.post_norm, layer.gate_up), layer.down, residual)
        rms_norm(residual, model.final_norm, self._config.rms_norm_eps, residual)
        return residual

    def logits(self, hidden: torch.Tensor, out: torch.Tensor) -> None:
        """[S, hidden_size] -> out [S, vocab_size], in the model's dtype."""
        self._products.into(hidden, self._model.lm_head, out)

    def _rotate(
        self,
        layer: LlamaLayer,
        qkv: torch.Tensor,
        tokens: PreparedTokens,
        keys: torch.Tensor,
        values: torch.Tensor,
    ) -> torch.Tensor:
        """[T, (Q + 2 K) * D] -> queries [T, Q, D], normed (Qwen3) and rotated; keys and values go to the buffer."""
        query = qkv.new_empty((len(qkv), self._config.num_attention_heads, self._config.head_dim))
        rotate_and_write(
            qkv,
            tokens.positions,
            self._model.inv_freq,
            tokens.slot_mapping,
            keys,
            values,
            query,
            q_norm=layer.query_norm,
            k_norm=layer.key_norm,
            eps=self._config.rms_norm_eps,
        )
        return query
