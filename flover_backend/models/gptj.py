"""GPT-J (Wang and Komatsuzaki 2021): the mathematics of one iteration over packed tokens.

A layer's attention and its MLP read the same normed input and are added to the residual together. Knows its weights
and the kernels; nothing of rows, requests, sampling, parallelism or quantization.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from flover_backend.kernels.activation import bias_gelu
from flover_backend.kernels.attention import AttentionIndex, attention, build_index
from flover_backend.kernels.linear import Linear
from flover_backend.kernels.norm import add_parallel, layer_norm
from flover_backend.kernels.rotary import pair_tables, rotate_pairs, write_kv
from flover_backend.kv.buffer import KVBuffer
from flover_backend.models.batch import ForwardBatch, FusedModel
from flover_backend.models.gptj_config import ROPE_THETA, GptjConfig
from flover_backend.models.rope import plain_frequencies


@dataclass(frozen=True, slots=True)
class LayerNorm:
    """Weights of one norm."""

    weight: torch.Tensor
    """[H]"""
    bias: torch.Tensor
    """[H]"""


@dataclass(frozen=True, slots=True)
class GptjLayer:
    """Weights of one layer. H hidden, I intermediate. Biases of the MLP stand apart: other kernels add them."""

    norm: LayerNorm
    qkv: Linear
    """H -> 3 * H: queries, keys, values"""
    output: Linear
    """H -> H"""
    fc_in: Linear
    """H -> I"""
    fc_in_bias: torch.Tensor
    """[I]"""
    fc_out: Linear
    """I -> H"""
    fc_out_bias: torch.Tensor
    """[H]"""


class GptjModel:
    """Implements models/batch.py's `Model`. Tensors it returns belong to the caller.

    Run it inside `torch.inference_mode()`: no weight wants a gradient, and an operation costs less there.
    """

    def __init__(
        self,
        config: GptjConfig,
        embedding: torch.Tensor,
        layers: list[GptjLayer],
        final_norm: LayerNorm,
        lm_head: Linear,
    ) -> None:
        self.config = config
        self.num_layers = config.num_hidden_layers
        self.num_heads, self.num_kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim, self.vocab_size = config.head_dim, config.vocab_size
        self.max_model_len, self.eos_token_ids = config.max_position_embeddings, config.eos_token_ids
        self.dtype, self.device = embedding.dtype, embedding.device
        self.embedding, self.layers, self.final_norm, self.lm_head = embedding, layers, final_norm, lm_head
        self.inv_freq = plain_frequencies(config.rotary_dim, ROPE_THETA).to(self.device)
        self.scale = config.head_dim**-0.5
        self.num_parameters = self._count_parameters()
        self.weight_bytes = self._count_bytes()

    def forward(self, batch: ForwardBatch, kv: KVBuffer) -> torch.Tensor:
        """Write the batch's keys and values into `kv`; return hidden states [T, hidden_size] after the final norm."""
        index = build_index(batch, kv.keys[0])
        tables = pair_tables(batch.positions, self.inv_freq, self.dtype)
        residual = F.embedding(batch.input_ids, self.embedding)
        for layer, keys, values in zip(self.layers, kv.keys, kv.values, strict=True):
            x = self._norm(residual, layer.norm)
            attended = self._attend(layer, x, tables, index, (keys, values), batch.slot_mapping)
            inner = layer.fc_out(bias_gelu(layer.fc_in(x), layer.fc_in_bias))
            add_parallel(attended, inner, layer.fc_out_bias, residual)
        return self._norm(residual, self.final_norm)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[N, hidden_size] -> [N, vocab_size] float32."""
        return self.lm_head(hidden).float()

    def fused(self) -> FusedModel:
        """The same model in fused GPU kernels. Needs Triton."""
        from flover_backend.models.gptj_gpu import GpuGptj

        return GpuGptj(self)

    def _attend(
        self,
        layer: GptjLayer,
        x: torch.Tensor,
        tables: tuple[torch.Tensor, ...],
        index: AttentionIndex,
        buffers: tuple[torch.Tensor, torch.Tensor],
        slot_mapping: torch.Tensor,
    ) -> torch.Tensor:
        """[T, H] normed -> [T, H]"""
        heads = self.num_heads
        qk, value = layer.qkv(x).view(len(x), -1, self.head_dim).split_with_sizes((2 * heads, heads), 1)
        qk = rotate_pairs(qk, *tables)
        write_kv(qk[:, heads:], value, *buffers, slot_mapping)
        return layer.output(attention(qk[:, :heads], *buffers, index, self.scale))

    def _norm(self, x: torch.Tensor, norm: LayerNorm) -> torch.Tensor:
        return layer_norm(x, norm.weight, norm.bias, self.config.layer_norm_eps)

    def _linears(self) -> list[Linear]:
        return [linear for layer in self.layers for linear in (layer.qkv, layer.output, layer.fc_in, layer.fc_out)]

    def _vectors(self) -> list[torch.Tensor]:
        norms = [self.final_norm, *(layer.norm for layer in self.layers)]
        biases = [bias for layer in self.layers for bias in (layer.fc_in_bias, layer.fc_out_bias)]
        return [*(norm.weight for norm in norms), *(norm.bias for norm in norms), *biases]

    def _count_parameters(self) -> int:
        shared = self.embedding.numel() if self.config.tie_word_embeddings else 0
        matrices = sum(linear.num_parameters for linear in (self.lm_head, *self._linears()))
        return self.embedding.numel() - shared + matrices + sum(v.numel() for v in self._vectors())

    def _count_bytes(self) -> int:
        head_is_embedding = self.config.tie_word_embeddings and not self.lm_head.packed
        shared = self.embedding.nbytes if head_is_embedding else 0
        matrices = sum(linear.weight_bytes for linear in (self.lm_head, *self._linears()))
        return self.embedding.nbytes - shared + matrices + sum(v.nbytes for v in self._vectors())
