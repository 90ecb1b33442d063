"""The prefill token budget by the stated model of an iteration's time."""

from __future__ import annotations

import pytest
import torch

from flover_backend.engine.costs import ATTENTION_TILE, JOIN_COST, DeviceSpeed, IterationCost, device_speed

H200 = device_speed(torch.device("cuda"), torch.float16, 1)
SMOLLM2 = IterationCost(
    651_000_000, 269_000_000, 69_120, 46_080, 30, device_speed(torch.device("cpu"), torch.float32, 2)
)
LLAMA_13B = IterationCost(26_030_000_000, 26_030_000_000, 819_200, 819_200, 40, H200)
LLAMA3_8B = IterationCost(16_060_000_000, 16_060_000_000, 524_288, 131_072, 32, H200)
GPTJ_6B = IterationCost(12_102_000_000, 12_102_000_000, 458_752, 458_752, 28, H200)


@pytest.mark.parametrize("cost", [SMOLLM2, LLAMA_13B, LLAMA3_8B, GPTJ_6B])
@pytest.mark.parametrize("rows", [1, 2, 8, 31, 32, 256])
@pytest.mark.parametrize(("context", "num_computed"), [(0, 0), (300, 0), (300, 3900)])
def test_a_full_budget_costs_running_rows_at_most_two_and_a_half_iterations(cost, rows, context, num_computed):
    def seconds(num_prompt: int) -> float:
        return cost.seconds(rows + num_prompt, rows * context, num_prompt * (num_computed + num_prompt / 2))

    budget = cost.prefill_token_budget(rows, rows * context, num_computed)
    limit = JOIN_COST * cost.seconds(rows, rows * context)
    least = min(ATTENTION_TILE, cost.prefill_token_budget(rows, rows * context))
    assert budget >= 1 and (seconds(budget) <= limit or budget == least)
    assert seconds(budget + 1) > limit or budget >= cost.prefill_token_budget(0, 0, num_computed)


def test_the_more_rows_read_the_more_prompt_tokens_hide_behind_it_and_fewer_behind_a_long_context():
    budgets = [LLAMA_13B.prefill_token_budget(25, num_kv_tokens) for num_kv_tokens in (0, 8_000, 60_000, 10**7)]
    assert budgets == sorted(set(budgets)) and budgets[-1] == 4096
    behind = [LLAMA3_8B.prefill_token_budget(32, 3_000, num_computed) for num_computed in (0, 1_000, 4_000, 90_000)]
    assert behind == sorted(set(behind), reverse=True)


@pytest.mark.parametrize("cost", [LLAMA_13B, LLAMA3_8B])
@pytest.mark.parametrize("rows", [1, 32])
def test_a_very_long_prompt_takes_no_more_pieces_than_tiles(cost, rows):
    num_computed, pieces = 0, 0
    while num_computed < 131_072:
        num_computed += cost.prefill_token_budget(rows, rows * 500, num_computed)
        pieces += 1
    assert pieces <= 131_072 / ATTENTION_TILE


def test_without_running_rows_the_budget_is_large():
    assert SMOLLM2.prefill_token_budget(0) > 3 * SMOLLM2.prefill_token_budget(1)
    assert LLAMA_13B.prefill_token_budget(0) == 4096
    assert 64 <= LLAMA_13B.prefill_token_budget(0, 0, 10**6) < 4096


def test_a_tiny_model_is_bounded_by_tokens_not_by_time():
    assert IterationCost(1000, 1000, 10, 10, 1, DeviceSpeed(1e9, 1e9, 1e9)).prefill_token_budget(0) == 4096


@pytest.mark.parametrize("cost", [SMOLLM2, LLAMA_13B, LLAMA3_8B, GPTJ_6B])
def test_no_iteration_takes_more_prompt_tokens_than_one_without_rows(cost):
    largest = cost.prefill_token_budget(0)
    budgets = [
        cost.prefill_token_budget(rows, rows * context, num_computed)
        for rows in (0, 1, 7, 32, 256, 1024)
        for context in (0, 500, 100_000)
        for num_computed in (0, 500, 100_000)
    ]
    assert max(budgets) == largest
