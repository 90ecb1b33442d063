"""Products with and without a bias, at few and many rows, against torch's own; outputs poisoned."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from flover_backend.kernels.gpu.products import Products
from flover_backend.kernels.linear import Linear

TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("num_rows", [1, 5, 70])
@pytest.mark.parametrize("has_bias", [False, True])
@torch.inference_mode()
def test_plain_into_and_add(has_bias: bool, num_rows: int, dtype: torch.dtype, device: torch.device) -> None:
    torch.manual_seed(num_rows)
    x, weight = torch.randn(num_rows, 128), torch.randn(192, 128) * 128**-0.5
    bias, residual = torch.randn(192), torch.randn(num_rows, 192)
    x, weight, bias, residual = (t.to(dtype).to(device) for t in (x, weight, bias, residual))
    linear, products = Linear(weight, bias if has_bias else None), Products(device, 1e-5)
    expected = F.linear(x.float(), weight.float(), bias.float() if has_bias else None)
    out = torch.full((num_rows, 192), torch.nan, dtype=dtype, device=device)
    products.into(x, linear, out)
    total = residual.clone()
    products.add(x, linear, total)
    tolerance = {"atol": TOLERANCE[dtype], "rtol": TOLERANCE[dtype]}
    torch.testing.assert_close(out.float(), expected, **tolerance)
    torch.testing.assert_close(products.plain(x, linear).float(), expected, **tolerance)
    torch.testing.assert_close(total.float(), expected + residual.float(), **tolerance)
