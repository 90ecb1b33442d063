"""Matrix products, packed and plain, and SwiGLU's activation, against the formulas in float64."""

from __future__ import annotations

import pytest
import torch

import flover_backend.kernels.linear as linear_module
from flover_backend.kernels.activation import silu_mul
from flover_backend.kernels.linear import Linear, can_pack

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1.6e-2, torch.float16: 2e-3}


@pytest.fixture(params=["packed", "plain"])
def layout(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "plain":
        monkeypatch.setattr(linear_module, "can_pack", lambda weight: False)
    return request.param


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize(("columns", "rows"), [(576, 960), (1536, 576), (7, 5), (1, 3), (1025, 33)])
def test_product(columns: int, rows: int, has_bias: bool, dtype: torch.dtype, layout: str) -> None:
    torch.manual_seed(columns)
    weight = (torch.randn(rows, columns) * columns**-0.5).to(dtype)
    bias = torch.randn(rows).to(dtype) if has_bias else None
    linear = Linear(weight, bias)
    assert linear.packed == (layout == "packed" and can_pack(weight))
    for count in (0, 1, 2, 3, 16, 33):
        x = torch.randn(count, columns).to(dtype)
        exact = x.double() @ weight.double().t() + (0 if bias is None else bias.double())
        out = linear(x)
        assert out.dtype == dtype and out.shape == (count, rows)
        torch.testing.assert_close(out.double(), exact, atol=4 * TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def test_input_may_be_a_part_of_wider_rows(layout: str) -> None:
    torch.manual_seed(0)
    weight, wide = torch.randn(6, 8), torch.randn(5, 20)
    torch.testing.assert_close(Linear(weight)(wide[::2, 4:12]), wide[::2, 4:12] @ weight.t())


def test_counts_what_it_holds(layout: str) -> None:
    linear = Linear(torch.randn(6, 8), torch.randn(6))
    assert (linear.num_parameters, linear.weight_bytes) == (54, 216)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("tokens", "width"), [(1, 1536), (16, 33), (3, 1), (0, 4)])
def test_silu_mul(tokens: int, width: int, dtype: torch.dtype) -> None:
    torch.manual_seed(width)
    gate_up = (torch.randn(tokens, 2 * width) * 4).to(dtype)
    before = gate_up.clone()
    gate, up = gate_up.double().chunk(2, -1)
    out = silu_mul(gate_up)
    assert out.dtype == dtype and torch.equal(gate_up, before)
    torch.testing.assert_close(
        out.double(), gate / (1 + (-gate).exp()) * up, atol=8 * TOLERANCE[dtype], rtol=TOLERANCE[dtype]
    )


def test_silu_mul_refuses_an_odd_width() -> None:
    with pytest.raises(AssertionError):
        silu_mul(torch.randn(2, 5))
