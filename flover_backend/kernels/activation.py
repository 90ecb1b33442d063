"""Activations of MLPs: LLaMA's gated one (SwiGLU, Shazeer 2020, arXiv 2002.05202) and GPT-J's GELU (Hendrycks and
Gimpel 2016, arXiv 1606.08415, by its tanh approximation) behind the bias of the product before it."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """[T, 2 * I] -> [T, I]: silu of the first half times the second half."""
    assert gate_up.shape[-1] % 2 == 0 and gate_up.stride(-1) == 1
    return silu_mul_reference(gate_up)


def silu_mul_reference(gate_up: torch.Tensor) -> torch.Tensor:
    """gate * sigmoid(gate) * up."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)


def bias_gelu(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """[T, I] -> [T, I]: gelu of x + bias [I]. Same dtype."""
    assert x.shape[-1:] == bias.shape and x.dtype == bias.dtype
    return bias_gelu_reference(x, bias)


def bias_gelu_reference(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """y / 2 * (1 + tanh(sqrt(2 / pi) * (y + 0.044715 y^3))) with y = x + bias, in float32, rounded once."""
    return F.gelu(x.float() + bias.float(), approximate="tanh").to(x.dtype)
