"""GPT-J in fused GPU kernels: the mathematics of models/gptj.py, eight to nine launches a layer.

Knows its weights and the kernels; nothing of rows, requests, sampling or graphs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from flover_backend.kernels.gpu.activation import bias_gelu
from flover_backend.kernels.gpu.embedding import embed
from flover_backend.kernels.gpu.norm import add_parallel_layer_norm, layer_norm
from flover_backend.kernels.gpu.products import Products
from flover_backend.kernels.gpu.rotary import rotate_and_write
from flover_backend.kernels.prepare import PreparedTokens
from flover_backend.kv.buffer import KVBuffer
from flover_backend.models.gptj import GptjLayer, GptjModel

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(query [T, heads, head_dim], a layer's keys, its values) -> [T, heads * head_dim]"""


class GpuGptj:
    """Implements models/batch.py's `FusedModel` with the weights of a `GptjModel`."""

    def __init__(self, model: GptjModel) -> None:
        self._model = model
        self.hidden_size, self.dtype = model.config.hidden_size, model.dtype
        self._products = Products(model.device, model.config.layer_norm_eps)
        # The rest of each head is turned by no angle.
        self._inv_freq = F.pad(model.inv_freq, (0, (model.head_dim - model.config.rotary_dim) // 2))

    def forward(self, tokens: PreparedTokens, kv: KVBuffer, attend: Attend) -> torch.Tensor:
        """Write the tokens' keys and values into `kv`; hidden states [T, hidden_size] after the final norm."""
        model, eps = self._model, self._model.config.layer_norm_eps
        residual = model.embedding.new_empty((len(tokens.input_ids), self.hidden_size))
        x = torch.empty_like(residual)
        embed(tokens.input_ids, model.embedding, residual)
        layer_norm(residual, model.layers[0].norm.weight, model.layers[0].norm.bias, eps, x)
        following = [*(layer.norm for layer in model.layers[1:]), model.final_norm]
        for layer, norm, keys, values in zip(model.layers, following, kv.keys, kv.values, strict=True):
            query = self._rotate(self._products.plain(x, layer.qkv), tokens, keys, values)
            attended = self._products.plain(attend(query, keys, values), layer.output)
            inner = self._inner(layer, x)
            add_parallel_layer_norm(attended, inner, layer.fc_out_bias, residual, norm.weight, norm.bias, eps, x)
        return x

    def logits(self, hidden: torch.Tensor, out: torch.Tensor) -> None:
        """[S, hidden_size] -> out [S, vocab_size], in the model's dtype."""
        self._products.into(hidden, self._model.lm_head, out)

    def _inner(self, layer: GptjLayer, x: torch.Tensor) -> torch.Tensor:
        """[T, H] normed -> [T, H], still without the last product's bias."""
        inner = self._products.plain(x, layer.fc_in)
        bias_gelu(inner, layer.fc_in_bias, inner)
        return self._products.plain(inner, layer.fc_out)

    def _rotate(
        self, qkv: torch.Tensor, tokens: PreparedTokens, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """[T, 3 * H] -> queries [T, heads, D], rotated; keys and values go to the buffer."""
        query = qkv.new_empty((len(qkv), self._model.num_heads, self._model.head_dim))
        rotate_and_write(
            qkv, tokens.positions, self._inv_freq, tokens.slot_mapping, keys, values, query, interleaved=True
        )
        return query
