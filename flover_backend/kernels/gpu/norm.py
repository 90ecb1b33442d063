"""RMSNorm and LayerNorm of rows, alone or with the residual additions before it; one program a row.

Statistics are in float32 and the normalized value is rounded before the weight multiplies it, as in kernels/norm.py.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from flover_backend.kernels.gpu.dependent_launch import let_next_start, overlap, wait_for_previous


@triton.jit
def scale_row(value, weight, width, eps, dtype: tl.constexpr):
    """RMSNorm of one row of `width` elements held in float32; what pads it is 0."""
    normed = value * tl.rsqrt(tl.sum(value * value, 0) / width + eps)
    return (normed.to(dtype).to(tl.float32) * weight.to(tl.float32)).to(dtype)


@triton.jit
def _norm_kernel(
    x,
    residual,
    weight,
    bias,
    out,
    eps,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    ADD: tl.constexpr,
    CENTER: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    dtype = out.dtype.element_ty
    columns = tl.arange(0, BLOCK)
    mask = columns < WIDTH
    gain = tl.load(weight + columns, mask=mask, other=0.0)
    if CENTER:
        shift = tl.load(bias + columns, mask=mask, other=0.0).to(tl.float32)
    let_next_start(OVERLAP)
    wait_for_previous(OVERLAP)
    places = tl.program_id(0).to(tl.int64) * WIDTH + columns
    value = tl.load(x + places, mask=mask, other=0.0).to(tl.float32)
    if ADD:
        total = (value + tl.load(residual + places, mask=mask, other=0.0).to(tl.float32)).to(dtype)
        tl.store(residual + places, total, mask=mask)
        value = total.to(tl.float32)
    if CENTER:
        value = tl.where(mask, value - tl.sum(value, 0) / WIDTH, 0.0)
        normed = value * tl.rsqrt(tl.sum(value * value, 0) / WIDTH + eps) * gain.to(tl.float32) + shift
        tl.store(out + places, normed.to(dtype), mask=mask)
    else:
        tl.store(out + places, scale_row(value, gain, WIDTH, eps, dtype), mask=mask)


@triton.jit
def _parallel_norm_kernel(
    attended,
    inner,
    inner_bias,
    residual,
    weight,
    bias,
    out,
    eps,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    dtype = out.dtype.element_ty
    columns = tl.arange(0, BLOCK)
    mask = columns < WIDTH
    gain = tl.load(weight + columns, mask=mask, other=0.0).to(tl.float32)
    shift = tl.load(bias + columns, mask=mask, other=0.0).to(tl.float32)
    value = tl.load(inner_bias + columns, mask=mask, other=0.0).to(tl.float32)
    let_next_start(OVERLAP)
    wait_for_previous(OVERLAP)
    places = tl.program_id(0).to(tl.int64) * WIDTH + columns
    value += tl.load(attended + places, mask=mask, other=0.0).to(tl.float32)
    value += tl.load(inner + places, mask=mask, other=0.0).to(tl.float32)
    total = (value + tl.load(residual + places, mask=mask, other=0.0).to(tl.float32)).to(dtype)
    tl.store(residual + places, total, mask=mask)
    value = total.to(tl.float32)
    value = tl.where(mask, value - tl.sum(value, 0) / WIDTH, 0.0)
    normed = value * tl.rsqrt(tl.sum(value * value, 0) / WIDTH + eps) * gain + shift
    tl.store(out + places, normed.to(dtype), mask=mask)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float, out: torch.Tensor) -> None:
    """out = RMSNorm of each row of x [T, H], scaled by `weight` [H]; one dtype, contiguous. `out` may be x."""
    _launch(x, None, weight, None, eps, out)


def add_rms_norm(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float, out: torch.Tensor) -> None:
    """`residual` [T, H] += x in place, then out = RMSNorm of it. `out` may be x."""
    _launch(x, residual, weight, None, eps, out)


def layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float, out: torch.Tensor) -> None:
    """out = LayerNorm (Ba et al. 2016, arXiv 1607.06450) of each row of x [T, H]. `out` may be x."""
    _launch(x, None, weight, bias, eps, out)


def add_layer_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float, out: torch.Tensor
) -> None:
    """`residual` [T, H] += x in place, then out = LayerNorm of it. `out` may be x."""
    _launch(x, residual, weight, bias, eps, out)


def add_parallel_layer_norm(
    attended: torch.Tensor,
    inner: torch.Tensor,
    inner_bias: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    out: torch.Tensor,
) -> None:
    """`residual` [T, H] += attended + inner + inner_bias [H] in place, rounded once; then out = LayerNorm of it.

    The two branches of a parallel layer (GPT-J); the reference is kernels/norm.py's `add_parallel` and `layer_norm`.
    `out` may be attended or inner.
    """
    num_rows, width = residual.shape
    tensors = (attended, inner, residual, out)
    assert all(t.shape == residual.shape and t.is_contiguous() and t.dtype == residual.dtype for t in tensors)
    assert all(t.shape == (width,) and t.dtype == residual.dtype for t in (inner_bias, weight, bias))
    if num_rows == 0:
        return
    block = triton.next_power_of_2(width)
    _parallel_norm_kernel[(num_rows,)](
        attended,
        inner,
        inner_bias,
        residual,
        weight,
        bias,
        out,
        eps,
        WIDTH=width,
        BLOCK=block,
        num_warps=row_warps(block),
        **overlap(residual.device),
    )


def layer_norm_reference(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor:
    """[T, H] -> [T, H]; all arithmetic in float32, rounded once."""
    return F.layer_norm(x.float(), weight.shape, weight.float(), bias.float(), eps).to(x.dtype)


def _launch(
    x: torch.Tensor,
    residual: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    eps: float,
    out: torch.Tensor,
) -> None:
    num_rows, width = x.shape
    assert x.is_contiguous() and out.is_contiguous() and out.shape == x.shape and out.dtype == x.dtype == weight.dtype
    assert weight.shape == (width,) and (bias is None or bias.shape == weight.shape)
    assert residual is None or (residual.is_contiguous() and residual.shape == x.shape and residual.dtype == x.dtype)
    if num_rows == 0:
        return
    block = triton.next_power_of_2(width)
    _norm_kernel[(num_rows,)](
        x,
        x if residual is None else residual,
        weight,
        weight if bias is None else bias,
        out,
        eps,
        WIDTH=width,
        BLOCK=block,
        ADD=residual is not None,
        CENTER=bias is not None,
        num_warps=row_warps(block),
        **overlap(x.device),
    )


def row_warps(block: int) -> int:
    """Warps of a program that holds a row of `block` elements: 16 bytes a thread twice over, 1 to 16 warps."""
    return min(16, max(1, block // 512))
