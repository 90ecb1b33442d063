"""The activation kernels against the plain-torch references."""

from __future__ import annotations

import pytest
import torch

from flover_backend.kernels.activation import bias_gelu_reference, silu_mul_reference
from flover_backend.kernels.gpu.activation import bias_gelu, silu_mul
from tests.kernels_gpu.compilation import compile_kernel

TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 3e-2}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", [(1, 64), (3, 1536), (70, 33)], ids=str)
def test_equals_the_reference(shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
    torch.manual_seed(sum(shape))
    gate_up = (torch.randn(shape[0], 2 * shape[1]) * 4).to(dtype).to(device)
    gate_up[0, 0], gate_up[0, 1] = -60, 60  # where sigmoid is 0 and 1
    out = torch.full(shape, torch.nan, dtype=dtype, device=device)
    silu_mul(gate_up, out)
    torch.testing.assert_close(out, silu_mul_reference(gate_up), atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", [(1, 64), (3, 1536), (70, 33)], ids=str)
def test_gelu_behind_a_bias(shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
    torch.manual_seed(sum(shape))
    x, bias = (torch.randn(shape) * 3).to(dtype).to(device), torch.randn(shape[1]).to(dtype).to(device)
    x[0, 0], x[0, 1], x[0, 2] = -300, 300, 0  # where tanh is -1 and 1
    out = torch.full(shape, torch.nan, dtype=dtype, device=device)
    bias_gelu(x, bias, out)
    expected = bias_gelu_reference(x, bias)
    torch.testing.assert_close(out, expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    bias_gelu(x, bias, x)
    torch.testing.assert_close(x, out, atol=0, rtol=0)


def test_launcher_refuses_other_shapes(device: torch.device) -> None:
    with pytest.raises(AssertionError):
        bias_gelu(torch.randn(2, 4, device=device), torch.randn(3, device=device), torch.empty(2, 4, device=device))
    with pytest.raises(AssertionError):
        silu_mul(torch.randn(2, 10, device=device), torch.empty(2, 4, device=device))


def test_compiles_for_hopper_without_spills() -> None:
    signature = {"gate_up": "*bf16:16", "out": "*bf16:16", "width": "i32:16"}
    constants = {"BLOCK": 1024, "OVERLAP": True}
    found = compile_kernel(
        "flover_backend.kernels.gpu.activation", "_silu_mul_kernel", signature, constants, num_warps=4
    )
    assert found.spilled_bytes == 0 and found.shared_bytes == 0


def test_gelu_compiles_for_hopper_without_spills() -> None:
    signature = {"x": "*fp16:16", "bias": "*fp16:16", "out": "*fp16:16", "width": "i32:16"}
    constants = {"BLOCK": 2048, "OVERLAP": True}
    found = compile_kernel(
        "flover_backend.kernels.gpu.activation", "_bias_gelu_kernel", signature, constants, num_warps=8
    )
    assert found.spilled_bytes == 0 and found.shared_bytes == 0
