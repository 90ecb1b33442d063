"""LLaMA and its near relatives: the mathematics of one iteration over packed tokens.

Knows its weights and the kernels; nothing of rows, requests, sampling, parallelism or quantization.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from flover_backend.kernels.activation import silu_mul
from flover_backend.kernels.attention import AttentionIndex, attention, build_index
from flover_backend.kernels.linear import Linear
from flover_backend.kernels.norm import add_rms_norm, rms_norm
from flover_backend.kernels.rotary import rotary_tables, rotate, write_kv
from flover_backend.kv.buffer import KVBuffer
from flover_backend.models.batch import ForwardBatch, FusedModel
from flover_backend.models.config import LlamaConfig
from flover_backend.models.rope import inverse_frequencies


@dataclass(frozen=True, slots=True)
class LlamaLayer:
    """Weights of one layer. H hidden, I intermediate, D head_dim, Q and K query and key-value heads."""

    input_norm: torch.Tensor
    """[H]"""
    qkv: Linear
    """H -> (Q + 2 K) * D: queries, keys, values"""
    query_norm: torch.Tensor | None
    """[D]"""
    key_norm: torch.Tensor | None
    """[D]"""
    output: Linear
    """Q * D -> H"""
    post_norm: torch.Tensor
    """[H]"""
    gate_up: Linear
    """H -> 2 * I: gate, up"""
    down: Linear
    """I -> H"""


class LlamaModel:
    """Implements models/batch.py's `Model`. Tensors it returns belong to the caller.

    Run it inside `torch.inference_mode()`: no weight wants a gradient, and an operation costs less there.
    """

    def __init__(
        self,
        config: LlamaConfig,
        embedding: torch.Tensor,
        layers: list[LlamaLayer],
        final_norm: torch.Tensor,
        lm_head: Linear,
    ) -> None:
        self.config = config
        self.num_layers = config.num_hidden_layers
        self.num_heads, self.num_kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim, self.vocab_size = config.head_dim, config.vocab_size
        self.max_model_len, self.eos_token_ids = config.max_position_embeddings, config.eos_token_ids
        self.dtype, self.device = embedding.dtype, embedding.device
        self.embedding, self.layers, self.final_norm, self.lm_head = embedding, layers, final_norm, lm_head
        self.inv_freq = inverse_frequencies(config).to(self.device)
        self.scale = config.head_dim**-0.5
        self.num_parameters = self._count_parameters()
        self.weight_bytes = self._count_bytes()

    def forward(self, batch: ForwardBatch, kv: KVBuffer) -> torch.Tensor:
        """Write the batch's keys and values into `kv`; return hidden states [T, hidden_size] after the final norm."""
        eps = self.config.rms_norm_eps
        index = build_index(batch, kv.keys[0])
        tables = rotary_tables(batch.positions, self.inv_freq, self.dtype)
        residual = F.embedding(batch.input_ids, self.embedding)
        x = rms_norm(residual, self.layers[0].input_norm, eps)
        for i, layer in enumerate(self.layers):
            x = self._attend(layer, x, tables, index, (kv.keys[i], kv.values[i]), batch.slot_mapping)
            x = add_rms_norm(x, residual, layer.post_norm, eps)
            x = layer.down(silu_mul(layer.gate_up(x)))
            last = i + 1 == self.num_layers
            x = add_rms_norm(x, residual, self.final_norm if last else self.layers[i + 1].input_norm, eps)
        return x

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[N, hidden_size] -> [N, vocab_size] float32."""
        return self.lm_head(hidden).float()

    def fused(self) -> FusedModel:
        """The same model in fused GPU kernels. Needs Triton."""
        from flover_backend.models.llama_gpu import GpuLlama

        return GpuLlama(self)

    def _attend(
        self,
        layer: LlamaLayer,
        x: torch.Tensor,
        tables: tuple[torch.Tensor, ...],
        index: AttentionIndex,
        buffers: tuple[torch.Tensor, torch.Tensor],
        slot_mapping: torch.Tensor,
    ) -> torch.Tensor:
        """[T, H] normed -> [T, H]"""
        heads, kv_heads = self.config.num_attention_heads, self.num_kv_heads
        qk, value = layer.qkv(x).view(len(x), -1, self.head_dim).split_with_sizes((heads + kv_heads, kv_heads), 1)
        qk = rotate(self._norm_heads(layer, qk), *tables)
        write_kv(qk[:, heads:], value, *buffers, slot_mapping)
        query = qk[:, :heads]
        return layer.output(attention(query, *buffers, index, self.scale))

    def _norm_heads(self, layer: LlamaLayer, qk: torch.Tensor) -> torch.Tensor:
        """Qwen3's norm of each query and key head: [T, Q + K, D] -> the same shape; elsewhere `qk` itself."""
        if layer.query_norm is None or layer.key_norm is None:
            return qk
        query, key = qk.split_with_sizes((self.config.num_attention_heads, self.num_kv_heads), 1)
        eps = self.config.rms_norm_eps
        return torch.cat((rms_norm(query, layer.query_norm, eps), rms_norm(key, layer.key_norm, eps)), 1)

    def _linears(self) -> list[Linear]:
        return [linear for layer in self.layers for linear in (layer.qkv, layer.output, layer.gate_up, layer.down)]

    def _vectors(self) -> list[torch.Tensor]:
        norms = [
            n for layer in self.layers for n in (layer.input_norm, layer.post_norm, layer.query_norm, layer.key_norm)
        ]
        return [self.final_norm, *(n for n in norms if n is not None)]

    def _count_parameters(self) -> int:
        head = 0 if self.config.tie_word_embeddings else self.lm_head.num_parameters
        layers = sum(linear.num_parameters for linear in self._linears()) + sum(v.numel() for v in self._vectors())
        return self.embedding.numel() + layers + head

    def _count_bytes(self) -> int:
        head_is_embedding = self.config.tie_word_embeddings and not self.lm_head.packed
        linears = self._linears() if head_is_embedding else [self.lm_head, *self._linears()]
        tensors = [self.embedding, *self._vectors()]
        return sum(linear.weight_bytes for linear in linears) + sum(t.nbytes for t in tensors)
