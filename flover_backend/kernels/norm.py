"""RMSNorm, alone and fused with the residual addition before it. Knows nothing of layers.

Root mean square layer normalization, Zhang and Sennrich 2019 (arXiv 1910.07467), as LLaMA uses it: statistics in
float32 whatever the dtype.
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
