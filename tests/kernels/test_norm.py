"""RMSNorm and the residual addition against the formula in float64."""

from __future__ import annotations

import pytest
import torch

from flover_backend.kernels.norm import add_rms_norm, rms_norm

TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 1.6e-2, torch.float16: 2e-3}


def _formula(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    x = x.double()
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight.double()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", [(1, 576), (16, 576), (3, 1), (7, 33), (2, 5, 64), (0, 8)], ids=str)
def test_equals_the_formula(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(sum(shape))
    x, weight = (torch.randn(shape) * 3).to(dtype), torch.randn(shape[-1:]).to(dtype)
    out = rms_norm(x, weight, 1e-5)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), _formula(x, weight, 1e-5), atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_adds_to_the_residual_in_place(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, residual = torch.randn(5, 64).to(dtype), torch.randn(5, 64).to(dtype)
    weight, before, kept = torch.randn(64).to(dtype), residual.clone(), x.clone()
    out = add_rms_norm(x, residual, weight, 1e-6)
    assert torch.equal(residual, before + kept) and torch.equal(x, kept)
    torch.testing.assert_close(out, rms_norm(before + kept, weight, 1e-6), atol=0, rtol=0)


def test_small_values_are_ruled_by_epsilon() -> None:
    out = rms_norm(torch.full((1, 4), 1e-20), torch.ones(4), 1e-5)
    torch.testing.assert_close(out, torch.full((1, 4), 1e-20 / 1e-5**0.5), atol=0, rtol=1e-5)


def test_half_precision_does_not_overflow() -> None:
    out = rms_norm(torch.full((1, 8), 60_000.0, dtype=torch.float16), torch.ones(8, dtype=torch.float16), 1e-5)
    assert torch.equal(out, torch.ones(1, 8, dtype=torch.float16))


def test_launcher_refuses_other_shapes_and_dtypes() -> None:
    x = torch.randn(2, 8)
    for weight in (torch.ones(7), torch.ones(8, dtype=torch.float16)):
        with pytest.raises(AssertionError):
            rms_norm(x, weight, 1e-5)
    with pytest.raises(AssertionError):
        add_rms_norm(x, torch.randn(8, 2).t(), torch.ones(8), 1e-5)
