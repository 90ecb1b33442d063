"""The matrix products of a layer with what stands before and behind them, each by the fastest way for its rows.

Few rows: a kernel of ours that reads the weight nearer the memory's rate and takes the activation or the residual
along. (The norm too was slower than a kernel of its own: each program would square all of x again.) More rows, biases
or float32: cuBLAS, and small kernels for the rest. Knows shapes and weights; nothing of attention.
"""

from __future__ import annotations

import torch

from flover_backend.kernels.gpu.activation import silu_mul
from flover_backend.kernels.gpu.matmul import Workspace, has_room, pays, skinny_matmul, supports
from flover_backend.kernels.gpu.norm import rms_norm
from flover_backend.kernels.linear import Linear


class Products:
    """Owns the scratch of the skinny products. One stream."""

    def __init__(self, device: torch.device, eps: float) -> None:
        """`eps`: of every norm."""
        self._workspace = Workspace(device)
        self._eps = eps

    def normed(self, x: torch.Tensor, norm: torch.Tensor, linear: Linear) -> torch.Tensor:
        """linear(RMSNorm(x)): [T, in] -> [T, out]"""
        return self.plain(self._norm(x, norm), linear)

    def gated(self, x: torch.Tensor, norm: torch.Tensor, linear: Linear) -> torch.Tensor:
        """silu(gate) * up of the halves of linear(RMSNorm(x)): [T, in] -> [T, out / 2]"""
        normed = self._norm(x, norm)
        out = x.new_empty((len(x), linear.out_features // 2))
        if _is_skinny(x, linear):
            skinny_matmul(normed, linear.weight, out, workspace=self._workspace, gated=True)
        else:
            silu_mul(linear(normed), out)
        return out

    def add(self, x: torch.Tensor, linear: Linear, residual: torch.Tensor) -> None:
        """residual [T, out] += linear(x)"""
        if _is_skinny(x, linear):
            skinny_matmul(x, linear.weight, None, workspace=self._workspace, residual=residual)
        elif linear.packed or linear.bias is not None:
            residual.add_(linear(x))
        else:
            residual.addmm_(x, linear.weight.t())

    def plain(self, x: torch.Tensor, linear: Linear) -> torch.Tensor:
        """linear(x): [T, in] -> [T, out]"""
        if not _is_skinny(x, linear):
            return linear(x)
        out = x.new_empty((len(x), linear.out_features))
        skinny_matmul(x, linear.weight, out, workspace=self._workspace)
        return out

    def into(self, x: torch.Tensor, linear: Linear, out: torch.Tensor) -> None:
        """out [T, out] = linear(x)"""
        if _is_skinny(x, linear):
            skinny_matmul(x, linear.weight, out, workspace=self._workspace)
        elif linear.packed:
            out.copy_(linear(x))
        elif linear.bias is not None:
            torch.addmm(linear.bias, x, linear.weight.t(), out=out)
        else:
            torch.mm(x, linear.weight.t(), out=out)

    def _norm(self, x: torch.Tensor, norm: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(x)
        rms_norm(x, norm, self._eps, out)
        return out


def _is_skinny(x: torch.Tensor, linear: Linear) -> bool:
    if linear.packed or linear.bias is not None:
        return False
    m, n, k = len(x), linear.out_features, x.shape[1]
    return supports(m, n, k, x.dtype) and pays(m, n, k) and has_room(x.device)
