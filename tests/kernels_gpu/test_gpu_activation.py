"""The gated activation kernel against the plain-torch reference."""

from __future__ import annotations

import pytest
import torch

from flover_backend.kernels.activation import silu_mul_reference
from flover_backend.kernels.gpu.activation import silu_mul
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


def test_launcher_refuses_other_shapes(device: torch.device) -> None:
    with pytest.raises(AssertionError):
        silu_mul(torch.randn(2, 10, device=device), torch.empty(2, 4, device=device))


def test_compiles_for_hopper_without_spills() -> None:
    signature = {"gate_up": "*bf16:16", "out": "*bf16:16", "width": "i32:16"}
    constants = {"BLOCK": 1024, "OVERLAP": True}
    found = compile_kernel(
        "flover_backend.kernels.gpu.activation", "_silu_mul_kernel", signature, constants, num_warps=4
    )
    assert found.spilled_bytes == 0 and found.shared_bytes == 0
