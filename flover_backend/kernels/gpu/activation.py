"""Activations of MLPs: LLaMA's gated one (SwiGLU, Shazeer 2020, arXiv 2002.05202), GPT-J's GELU behind a bias.

Their references are in kernels/activation.py.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from flover_backend.kernels.gpu.dependent_launch import let_next_start, overlap, wait_for_previous


@triton.jit
def silu_times(gate, up, dtype: tl.constexpr):
    """silu(gate) * up of float32 values that hold rounded products; each step rounds as separate kernels would."""
    silu = (gate / (1.0 + tl.exp(-gate))).to(dtype).to(tl.float32)
    return (silu * up).to(dtype)


@triton.jit
def _silu_mul_kernel(gate_up, out, width, BLOCK: tl.constexpr, OVERLAP: tl.constexpr):
    dtype = out.dtype.element_ty
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = columns < width
    let_next_start(OVERLAP)
    wait_for_previous(OVERLAP)
    row = tl.program_id(0).to(tl.int64)
    gate = tl.load(gate_up + row * 2 * width + columns, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * width + width + columns, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + row * width + columns, silu_times(gate, up, dtype), mask=mask)


def silu_mul(gate_up: torch.Tensor, out: torch.Tensor) -> None:
    """out [T, I] = silu of the first half of gate_up [T, 2 * I] times the second; one dtype, contiguous."""
    num_tokens, width = out.shape
    assert gate_up.shape == (num_tokens, 2 * width) and gate_up.is_contiguous() and out.is_contiguous()
    assert gate_up.dtype == out.dtype
    if num_tokens == 0:
        return
    block = 1024 if num_tokens <= 64 else 2048
    _silu_mul_kernel[(num_tokens, triton.cdiv(width, block))](
        gate_up, out, width, BLOCK=block, num_warps=block // 256, **overlap(out.device)
    )


@triton.jit
def _bias_gelu_kernel(x, bias, out, width, BLOCK: tl.constexpr, OVERLAP: tl.constexpr):
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = columns < width
    shift = tl.load(bias + columns, mask=mask, other=0.0).to(tl.float32)
    let_next_start(OVERLAP)
    wait_for_previous(OVERLAP)
    row = tl.program_id(0).to(tl.int64)
    value = tl.load(x + row * width + columns, mask=mask, other=0.0).to(tl.float32) + shift
    # y / 2 * (1 + tanh(z)) is y * sigmoid(2 z), which overflows nowhere.
    double = 1.5957691216057308 * (value + 0.044715 * value * value * value)
    gelu = value / (1.0 + tl.exp(-double))
    tl.store(out + row * width + columns, gelu.to(out.dtype.element_ty), mask=mask)


def bias_gelu(x: torch.Tensor, bias: torch.Tensor, out: torch.Tensor) -> None:
    """out [T, I] = gelu (by its tanh approximation) of x [T, I] + bias [I]; one dtype, contiguous. `out` may be x."""
    num_tokens, width = out.shape
    assert x.shape == out.shape and x.is_contiguous() and out.is_contiguous() and bias.shape == (width,)
    assert x.dtype == out.dtype == bias.dtype
    if num_tokens == 0:
        return
    block = 1024 if num_tokens <= 64 else 2048
    _bias_gelu_kernel[(num_tokens, triton.cdiv(width, block))](
        x, bias, out, width, BLOCK=block, num_warps=block // 256, **overlap(out.device)
    )
