"""RMSNorm and LayerNorm kernels against the plain-torch references, on random rows and poisoned outputs."""

from __future__ import annotations

import pytest
import torch

from flover_backend.kernels import norm as reference
from flover_backend.kernels.gpu.embedding import embed, embed_reference
from flover_backend.kernels.gpu.norm import (
    add_layer_norm,
    add_parallel_layer_norm,
    add_rms_norm,
    layer_norm,
    layer_norm_reference,
    rms_norm,
)
from tests.kernels_gpu.compilation import compile_kernel
from tests.kernels_gpu.conftest import HAS_GPU

TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 3e-2}
# The interpreter cuts float32 to bfloat16 instead of rounding it.
SUM_TOLERANCE = {torch.float32: 0.0, torch.float16: 0.0, torch.bfloat16: 0.0 if HAS_GPU else 2**-7}
SHAPES = [(1, 64), (5, 576), (3, 33), (2, 1), (2, 5120)]


def _inputs(shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> list[torch.Tensor]:
    """x, residual, weight, bias, poisoned out"""
    torch.manual_seed(sum(shape))
    x, residual = (torch.randn(shape) * 3).to(dtype), torch.randn(shape).to(dtype)
    weight, bias = (torch.rand(shape[1]) + 0.5).to(dtype), torch.randn(shape[1]).to(dtype)
    return [t.to(device) for t in (x, residual, weight, bias, torch.full(shape, torch.nan, dtype=dtype))]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rms_norm(shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
    x, residual, weight, _, out = _inputs(shape, dtype, device)
    tolerance = {"atol": TOLERANCE[dtype], "rtol": TOLERANCE[dtype]}
    rms_norm(x, weight, 1e-5, out)
    torch.testing.assert_close(out, reference.rms_norm_reference(x, weight, 1e-5), **tolerance)
    expected_residual = residual + x
    out.fill_(torch.nan)
    add_rms_norm(x, residual, weight, 1e-6, out)
    torch.testing.assert_close(residual, expected_residual, atol=0, rtol=SUM_TOLERANCE[dtype])
    torch.testing.assert_close(out, reference.rms_norm_reference(expected_residual, weight, 1e-6), **tolerance)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_layer_norm(shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
    x, residual, weight, bias, out = _inputs(shape, dtype, device)
    tolerance = {"atol": 2 * TOLERANCE[dtype], "rtol": TOLERANCE[dtype]}
    layer_norm(x + 7, weight, bias, 1e-5, out)
    torch.testing.assert_close(out, layer_norm_reference(x + 7, weight, bias, 1e-5), **tolerance)
    expected_residual = residual + x
    out.fill_(torch.nan)
    add_layer_norm(x, residual, weight, bias, 1e-5, out)
    torch.testing.assert_close(residual, expected_residual, atol=0, rtol=SUM_TOLERANCE[dtype])
    torch.testing.assert_close(out, layer_norm_reference(expected_residual, weight, bias, 1e-5), **tolerance)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_parallel_layer_norm(shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
    attended, residual, weight, bias, out = _inputs(shape, dtype, device)
    inner, inner_bias = 2 * attended.flip(0) + 1, bias.flip(0) * 3
    expected_residual = residual.clone()
    reference.add_parallel(attended, inner, inner_bias, expected_residual)
    add_parallel_layer_norm(attended, inner, inner_bias, residual, weight, bias, 1e-5, out)
    # The order of a float32 sum is free; in half precision a sum may then round to the neighbour.
    ulp = {torch.float32: 2**-21, torch.float16: 2**-10, torch.bfloat16: 2**-7}[dtype]
    torch.testing.assert_close(residual, expected_residual, atol=ulp, rtol=ulp)
    expected = reference.layer_norm(residual, weight, bias, 1e-5)
    torch.testing.assert_close(out, expected, atol=2 * TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def test_output_may_be_the_input(device: torch.device) -> None:
    x, residual, weight, _, out = _inputs((4, 96), torch.float32, device)
    add_rms_norm(x, residual.clone(), weight, 1e-5, out)
    add_rms_norm(x, residual, weight, 1e-5, x)
    torch.testing.assert_close(x, out, atol=0, rtol=0)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("width", [64, 100, 576])
def test_embedding_and_its_norm(width: int, dtype: torch.dtype, device: torch.device) -> None:
    table, _, weight, _, _ = _inputs((50, width), dtype, device)
    ids = torch.randint(50, (9,), dtype=torch.int32).to(device)
    ids[0], ids[1] = 0, 49
    residual, normed = torch.full((2, 9, width), torch.nan, dtype=dtype, device=device).unbind(0)
    embed(ids, table, residual, weight=weight, eps=1e-5, normed=normed)
    expected, expected_normed = embed_reference(ids, table, weight, 1e-5)
    torch.testing.assert_close(residual, expected, atol=0, rtol=0)
    torch.testing.assert_close(normed, expected_normed, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    residual.fill_(torch.nan)
    embed(ids, table, residual)
    torch.testing.assert_close(residual, expected, atol=0, rtol=0)


def test_output_may_be_a_branch(device: torch.device) -> None:
    attended, residual, weight, bias, out = _inputs((4, 96), torch.float32, device)
    add_parallel_layer_norm(attended, attended, bias, residual.clone(), weight, bias, 1e-5, out)
    add_parallel_layer_norm(attended, attended, bias, residual, weight, bias, 1e-5, attended)
    torch.testing.assert_close(attended, out, atol=0, rtol=0)


def test_launchers_refuse_other_shapes_and_dtypes(device: torch.device) -> None:
    x, residual, weight, _, out = _inputs((4, 8), torch.float32, device)
    for bad in (weight[:7], weight.half()):
        with pytest.raises(AssertionError):
            rms_norm(x, bad, 1e-5, out)
    with pytest.raises(AssertionError):
        add_rms_norm(x, residual.t().contiguous().t(), weight, 1e-5, out)
    with pytest.raises(AssertionError):
        add_parallel_layer_norm(x, x[:3], weight, residual, weight, weight, 1e-5, out)
    with pytest.raises(AssertionError):
        embed(torch.zeros(3, dtype=torch.int64, device=device), x, out[:3])


def test_compiles_for_hopper_without_spills() -> None:
    pointers = {name: "*fp16:16" for name in ("x", "residual", "weight", "bias", "out")}
    constants = {"WIDTH": 5120, "BLOCK": 8192, "ADD": True, "CENTER": False, "OVERLAP": True}
    found = compile_kernel(
        "flover_backend.kernels.gpu.norm", "_norm_kernel", {**pointers, "eps": "fp32"}, constants, num_warps=16
    )
    assert found.spilled_bytes == 0 and found.registers <= 64


def test_the_parallel_form_compiles_for_hopper_without_spills() -> None:
    names = ("attended", "inner", "inner_bias", "residual", "weight", "bias", "out")
    constants = {"WIDTH": 4096, "BLOCK": 4096, "OVERLAP": True}
    signature = {**dict.fromkeys(names, "*fp16:16"), "eps": "fp32"}
    found = compile_kernel(
        "flover_backend.kernels.gpu.norm", "_parallel_norm_kernel", signature, constants, num_warps=8
    )
    assert found.spilled_bytes == 0 and found.registers <= 128
