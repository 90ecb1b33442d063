"""Rotary frequencies of a model from its configuration: the plain ones, and LLaMA 3's scaling of them."""

from __future__ import annotations

import math

import torch

from flover_backend.models.config import Llama3Rope, LlamaConfig


def inverse_frequencies(config: LlamaConfig) -> torch.Tensor:
    """[head_dim / 2] float32 on the CPU: radians a position of each pair of elements."""
    inv_freq = plain_frequencies(config.head_dim, config.rope_theta)
    return inv_freq if config.rope_llama3 is None else _scale_llama3(inv_freq, config.rope_llama3)


def plain_frequencies(dim: int, theta: float) -> torch.Tensor:
    """[dim / 2] float32 on the CPU: theta ** (-2 i / dim)."""
    exponents = torch.arange(0, dim, 2, dtype=torch.float32) / dim
    return 1.0 / theta**exponents


def _scale_llama3(inv_freq: torch.Tensor, rope: Llama3Rope) -> torch.Tensor:
    """Long waves are slowed by `factor`, short ones kept, those between blended (Llama 3.1's reference code)."""
    wavelength = 2 * math.pi / inv_freq
    span = rope.high_freq_factor - rope.low_freq_factor
    keep = ((rope.original_max_position_embeddings / wavelength - rope.low_freq_factor) / span).clamp(0, 1)
    return (1 - keep) * inv_freq / rope.factor + keep * inv_freq
