"""The prefill token budget by the stated model of an iteration's time."""

from __future__ import annotations

import pytest
import torch

from flover_backend.engine.costs import JOIN_COST, DeviceSpeed, IterationCost, device_speed

SMOLLM2 = IterationCost(651_000_000, 269_000_000, 30, device_speed(torch.device("cpu"), torch.float32, 2))
LLAMA_13B_ON_H200 = IterationCost(
    26_030_000_000, 26_030_000_000, 40, device_speed(torch.device("cuda"), torch.float16, 1)
)
GPTJ_6B_ON_H200 = IterationCost(
    12_102_000_000, 12_102_000_000, 28, device_speed(torch.device("cuda"), torch.float16, 1)
)


@pytest.mark.parametrize("cost", [SMOLLM2, LLAMA_13B_ON_H200, GPTJ_6B_ON_H200])
@pytest.mark.parametrize("rows", [1, 2, 8, 31, 32, 256, 4096])
def test_a_full_budget_costs_running_rows_at_most_two_and_a_half_iterations(cost, rows):
    budget = cost.prefill_token_budget(rows)
    assert budget >= 1
    assert cost.seconds(rows + budget) <= JOIN_COST * cost.seconds(rows)
    assert cost.seconds(rows + budget + 2) > JOIN_COST * cost.seconds(rows) * 0.99


def test_without_running_rows_the_budget_is_large():
    assert SMOLLM2.prefill_token_budget(0) > 3 * SMOLLM2.prefill_token_budget(1)
    assert LLAMA_13B_ON_H200.prefill_token_budget(0) == 4096


def test_a_tiny_model_is_bounded_by_tokens_not_by_time():
    assert IterationCost(1000, 1000, 1, DeviceSpeed(1e9, 1e9)).prefill_token_budget(0) == 4096
