"""The tensors of one iteration, as the runner hands them to a model: packed tokens, no padding between prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from flover_backend.kernels.prepare import PreparedTokens
    from flover_backend.kv.buffer import KVBuffer
    from flover_backend.models.config import ModelConfig


@dataclass(frozen=True, slots=True)
class ForwardBatch:
    """T packed tokens of S segments. Segments 0 .. num_decodes-1 have one token each (decode); the rest are chunks.

    Tensors live on the model's device; the lists are the same facts on the host, so that no kernel has to wait for
    the device to learn a length.
    """

    input_ids: torch.Tensor
    """[T] int64"""
    positions: torch.Tensor
    """[T] int64, position of each token in its sequence"""
    slot_mapping: torch.Tensor
    """[T] int64, block * block_size + offset: where each token's key and value go"""
    cu_seqlens_q: torch.Tensor
    """[S + 1] int32, where each segment's tokens begin"""
    seqlens_k: torch.Tensor
    """[S] int32, tokens of each segment's sequence in the KV buffer after this iteration's writes"""
    block_table: torch.Tensor
    """[S, max_blocks] int32; entries beyond a sequence's blocks are 0 (the null block)"""
    num_decodes: int
    query_lens: list[int]
    """[S]"""
    kv_lens: list[int]
    """[S], seqlens_k on the host"""


class Model(Protocol):
    """A decoder-only language model. Holds weights; knows nothing of rows, requests or scheduling."""

    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_model_len: int
    eos_token_ids: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    num_parameters: int
    weight_bytes: int

    @property
    def config(self) -> ModelConfig:
        """As config.json says."""
        ...

    def forward(self, batch: ForwardBatch, kv: KVBuffer) -> torch.Tensor:
        """Write the batch's keys and values into `kv`; return hidden states [T, hidden_size] after the final norm."""
        ...

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[N, hidden_size] -> [N, vocab_size] float32."""
        ...

    def fused(self) -> FusedModel:
        """The same model in fused GPU kernels. Needs Triton."""
        ...


class FusedModel(Protocol):
    """A model whose launches depend on the number of tokens alone, so that graphs can hold them."""

    hidden_size: int
    dtype: torch.dtype

    def forward(
        self,
        tokens: PreparedTokens,
        kv: KVBuffer,
        attend: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        """Write the tokens' keys and values into `kv`; hidden states [T, hidden_size] after the final norm.

        attend: (query [T, heads, head_dim], a layer's keys, its values) -> [T, heads * head_dim].
        """
        ...

    def logits(self, hidden: torch.Tensor, out: torch.Tensor) -> None:
        """[S, hidden_size] -> out [S, vocab_size], in the model's dtype."""
        ...
