"""RMSNorm and LayerNorm, alone and fused with the residual additions before them. Knows nothing of layers.

Root mean square layer normalization, Zhang and Sennrich 2019 (arXiv 1910.07467), as LLaMA uses it: statistics in
float32 whatever the dtype. Layer normalization: Ba et al. 2016 (arXiv 1607.06450), rounded once.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """[..., H] -> [..., H], normalized over the last dimension and scaled by `weight` [H]. Same dtype as `x`."""
    assert x.shape[-1:] == weight.shape and x.dtype == weight.dtype and x.device == weight.device
    return rms_norm_reference(x, weight, eps)


def add_rms_norm(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """`residual += x` in place, then RMSNorm of it: [T, H], [T, H] -> [T, H]. `x` is left as it was."""
    assert x.shape == residual.shape and x.dtype == residual.dtype and residual.is_contiguous()
    return rms_norm(residual.add_(x), weight, eps)


def rms_norm_reference(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """x / sqrt(mean(x^2) + eps) * weight."""
    if x.dtype == torch.float32:
        return F.rms_norm(x, weight.shape, weight, eps)
    normed = F.rms_norm(x.float(), weight.shape, None, eps)
    return normed.to(x.dtype).mul_(weight)


def layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor:
    """[T, H] -> [T, H], centred and normalized rows, scaled by `weight` [H] and shifted by `bias` [H]."""
    assert x.shape[-1:] == weight.shape == bias.shape and x.dtype == weight.dtype == bias.dtype
    return F.layer_norm(x, weight.shape, weight, bias, eps)


def add_parallel(attended: torch.Tensor, inner: torch.Tensor, bias: torch.Tensor, residual: torch.Tensor) -> None:
    """`residual` [T, H] += attended + inner + bias in place: what a parallel layer's two branches give, and the bias
    [H] of the second one's last product. Summed in float32, rounded once."""
    assert attended.shape == inner.shape == residual.shape and attended.dtype == inner.dtype == residual.dtype
    residual.copy_((attended.float() + inner).add_(bias).add_(residual))
