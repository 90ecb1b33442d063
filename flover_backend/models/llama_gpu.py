"""LLaMA and its near relatives in fused GPU kernels: the mathematics of models/llama.py, a few launches a layer.

Few rows: each weight is read by one kernel of ours that takes the norm before it and the residual or the activation
behind it along. More rows: cuBLAS's products, and the rest in small kernels between them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from flover_backend.kernels.gpu.activation import silu_mul
from flover_backend.kernels.gpu.embedding import embed_norm
from flover_backend.kernels.gpu.norm import add_rms_norm
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

    def forward(self, tokens: PreparedTokens, kv: KVBuffer, attend: Attend) -> torch.Tensor:
        """Write the tokens' keys and values into `kv`; hidden states [T, hidden_size] after the final norm."""
        eps, layers = self._config.rms_norm_eps, self._model.layers
        residual, x = embed_norm(tokens.input_ids, self._model.embedding, layers[0].input_norm, eps)
        for i, layer in enumerate(layers):
            query = self._rotate(layer, layer.qkv(x), tokens, kv, i)
            x = layer.output(attend(query, kv.keys[i], kv.values[i]))
            x = add_rms_norm(x, residual, layer.post_norm, eps)
            x = layer.down(silu_mul(layer.gate_up(x)))
            last = i + 1 == len(layers)
            x = add_rms_norm(x, residual, self._model.final_norm if last else layers[i + 1].input_norm, eps)
        return x

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[S, hidden_size] -> [S, vocab_size] in the model's dtype."""
        return self._model.lm_head(hidden)

    def _rotate(
        self, layer: LlamaLayer, qkv: torch.Tensor, tokens: PreparedTokens, kv: KVBuffer, index: int
    ) -> torch.Tensor:
        """[T, (Q + 2 K) * D] -> queries [T, Q, D], normed (Qwen3) and rotated; keys and values go to the buffer."""
        return rotate_and_write(
            qkv, tokens.positions, self._model.inv_freq, tokens.slot_mapping, kv.keys[index], kv.values[index],
            layer.query_norm, layer.key_norm, self._config.rms_norm_eps,
        )  # fmt: skip
