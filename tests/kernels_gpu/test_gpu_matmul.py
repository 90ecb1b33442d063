"""Skinny products against the plain-torch reference: every way they are cut, fused and shared, on poisoned outputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from flover_backend.kernels.gpu.matmul import (
    SkinnyConfig,
    Workspace,
    config_for,
    pays,
    skinny_matmul,
    skinny_matmul_reference,
    supports,
)
from tests.kernels_gpu.compilation import compile_kernel
from tests.kernels_gpu.conftest import HAS_GPU

# The interpreter multiplies bfloat16 wrongly.
DTYPES = [torch.float16, torch.bfloat16] if HAS_GPU else [torch.float16]


def _config(m: int, splits: int = 1, block_n: int = 64, block_k: int = 64) -> SkinnyConfig:
    return SkinnyConfig(max(8, m), block_n, block_k, splits, num_warps=4, num_stages=3, prefetch=0, trigger=1)


def _check(m: int, n: int, k: int, dtype: torch.dtype, device: torch.device, config: SkinnyConfig, **f: bool) -> None:
    torch.manual_seed(m + n + k)
    x, w = torch.randn(m, k).to(dtype).to(device), (torch.randn(n, k) / k**0.5).to(dtype).to(device)
    fused: dict[str, Any] = {"gated": f.get("gated", False)}
    width = n // 2 if fused["gated"] else n
    residual = torch.randn(m, width).to(dtype).to(device) if f.get("add") else None
    expected = skinny_matmul_reference(x, w, residual=residual, **fused)
    out = residual if residual is not None else torch.full((m, width), torch.nan, dtype=dtype, device=device)
    workspace = Workspace(device, 1 << 18, 64)
    workspace.partials.fill_(torch.nan)
    before = x.clone()
    skinny_matmul(x, w, None if f.get("add") else out, residual=residual, workspace=workspace, config=config, **fused)
    tolerance = 4e-3 if dtype == torch.float16 else 3e-2
    torch.testing.assert_close(out, expected, atol=tolerance, rtol=tolerance)
    assert not workspace.counters.any() and torch.equal(x, before)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("add", [False, True])
def test_shares_and_residual(dtype: torch.dtype, splits: int, add: bool, device: torch.device) -> None:
    _check(3, 128, 256, dtype, device, _config(3, splits), add=add)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gated(dtype: torch.dtype, device: torch.device) -> None:
    _check(2, 256, 128, dtype, device, _config(2, block_n=128), gated=True)


@pytest.mark.parametrize("m", [1, 8, 9, 16, 33, 64])
def test_numbers_of_rows(m: int, device: torch.device) -> None:
    _check(m, 64, 192, torch.float16, device, _config(1 << (m - 1).bit_length(), 2))


@pytest.mark.parametrize("gated", [False, True])
def test_last_tile_is_partly_outside(gated: bool, device: torch.device) -> None:
    _check(5, 160, 128, torch.float16, device, _config(8), gated=gated)


def test_shares_of_unequal_length(device: torch.device) -> None:
    _check(4, 64, 320, torch.float16, device, _config(4, splits=4))


@pytest.mark.parametrize("shape", [(1, 15360, 5120), (32, 5120, 13824), (64, 32000, 5120), (16, 4096, 14336)], ids=str)
def test_configurations_cover_the_chip_in_one_round(shape: tuple[int, int, int]) -> None:
    config = config_for(*shape)
    programs = -(-shape[1] // config.block_n) * config.splits
    assert config.block_m >= shape[0] and (100 <= programs <= 264 or config.splits == 1)


@pytest.mark.parametrize("shape", [(3, 576, 576), (1, 192, 64)], ids=str)
def test_default_configuration_is_right(shape: tuple[int, int, int], device: torch.device) -> None:
    m, n, k = shape
    _check(m, n, k, torch.float16, device, config_for(m, n, k), add=True)


def test_what_is_supported() -> None:
    assert supports(1, 5120, 5120, torch.float16) and supports(64, 64, 64, torch.bfloat16)
    for shape in [(65, 64, 64), (0, 64, 64), (1, 64, 80), (1, 8, 64)]:
        assert not supports(*shape, torch.float16)
    assert not supports(1, 64, 64, torch.float32)
    assert pays(16, 4096, 4096) and pays(64, 4096, 14336) and not pays(17, 4096, 4096)


@pytest.mark.gpu
def test_results_do_not_depend_on_timing(device: torch.device) -> None:
    torch.manual_seed(0)
    x, w = torch.randn(16, 4096, device=device).half(), torch.randn(4096, 4096, device=device).half()
    outs = [torch.empty(16, 4096, device=device).half() for _ in range(50)]
    workspace = Workspace(device)
    for out in outs:
        skinny_matmul(x, w, out, workspace=workspace)
    assert all(torch.equal(out, outs[0]) for out in outs)


POINTERS = {
    **dict.fromkeys(("x", "w", "out"), "*fp16:16"),
    "partials": "*fp32:16",
    "counters": "*i32:16",
}
SIZES = {
    "M": "i32",
    "N": "i32:16",
    "K": "i32:16",
    "splits": "i32",
    "trigger": "i32",
}


@pytest.mark.parametrize("case", ["plain", "gated", "shared"])
def test_compiles_for_hopper_without_spills(case: str) -> None:
    cases = {
        "plain": (config_for(8, 15360, 5120), {"ADD": False, "GATED": False}),
        "gated": (config_for(32, 27648, 5120, gated=True), {"ADD": False, "GATED": True}),
        "shared": (config_for(64, 5120, 13824), {"ADD": True, "GATED": False}),
    }
    config, fused = cases[case]
    cut = {"SHARED": config.splits > 1, "BLOCK_M": config.block_m, "BLOCK_N": config.block_n, "BLOCK_K": config.block_k}
    found = compile_kernel(
        "flover_backend.kernels.gpu.matmul",
        "_skinny_kernel",
        {**POINTERS, **SIZES},
        {**fused, **cut, "PREFETCH": config.prefetch, "OVERLAP": True},
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
    assert found.spilled_bytes == 0 and found.shared_bytes <= 227 * 1024 // (2 if case == "plain" else 1) - 1024
