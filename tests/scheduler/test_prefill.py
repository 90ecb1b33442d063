"""The token budget: several prompts in one iteration, long ones in pieces, beside rows that decode."""

from __future__ import annotations

import pytest
from schedule_loop import Loop, make_config, make_request

from flover_backend.scheduler.plan import StepResult
from flover_backend.scheduler.scheduler import Scheduler


def chunks(loop: Loop, step: int) -> list[tuple[int, int, int, bool]]:
    return [(chunk.row, chunk.start, len(chunk.token_ids), chunk.samples) for chunk in loop.plans[step].chunks]


def test_prompts_are_packed_and_the_one_that_crosses_the_budget_is_split():
    loop = Loop(make_config(prefill_token_budget=10))
    for key, num_prompt in enumerate((4, 4, 7, 3)):
        loop.add(make_request(key, num_prompt=num_prompt))
    loop.step()
    assert chunks(loop, 0) == [(0, 0, 4, True), (1, 0, 4, True), (2, 0, 2, False)]
    loop.step()
    assert chunks(loop, 1) == [(2, 2, 5, True), (3, 0, 3, True)]
    loop.run()
    loop.check_against_lone_runs()


def test_a_long_prompt_runs_in_chunks_while_others_decode():
    loop = Loop(make_config(prefill_token_budget=8))
    loop.add(make_request(0, num_prompt=2, max_tokens=10))
    loop.step()
    loop.add(make_request(1, num_prompt=20))
    for _ in range(3):
        loop.step()
    assert [len(plan.decode_rows) for plan in loop.plans] == [0, 1, 1, 1]
    assert [chunks(loop, step) for step in (1, 2, 3)] == [
        [(1, 0, 8, False)],
        [(1, 8, 8, False)],
        [(1, 16, 4, True)],
    ]
    loop.run()
    loop.check_against_lone_runs()


def test_the_budget_may_depend_on_the_number_of_decoding_rows():
    seen: list[int] = []

    def budget(num_decode_rows, num_kv_tokens, num_computed) -> int:
        seen.append(num_decode_rows)
        return 12 if num_decode_rows == 0 else 2

    loop = Loop(make_config(prefill_token_budget=budget))
    loop.add(make_request(0, num_prompt=12, max_tokens=4))
    loop.add(make_request(1, num_prompt=3))
    loop.step()
    loop.step()
    assert [len(plan.chunks[0].token_ids) for plan in loop.plans] == [12, 2]
    assert 1 in seen
    loop.run()
    loop.check_against_lone_runs()


def test_a_budget_below_1_is_an_error_that_says_so():
    loop = Loop(make_config(prefill_token_budget=lambda *beside: 0))
    loop.scheduler.add(make_request(0))
    with pytest.raises(ValueError, match="prefill_token_budget is 0 beside 0 rows; at least 1"):
        loop.scheduler.plan()


def test_prompt_tokens_count_once_even_when_recomputed_or_sampled_n_times():
    loop = Loop(make_config(num_blocks=6, block_size=4, prefill_token_budget=5))
    loop.add(make_request(0, num_prompt=7, max_tokens=10))
    loop.add(make_request(1, num_prompt=6, max_tokens=6, n=2))
    loop.run()
    counters = loop.scheduler.counters
    assert counters.preemptions > 0
    assert counters.prompt_tokens == 13 < counters.prefill_tokens
    assert counters.generated_tokens == 10 + 2 * 6
    loop.check_against_lone_runs()


def test_a_budget_is_asked_for_with_what_the_rows_attend_to_and_what_is_behind_the_piece():
    asked = []

    def budget(num_decode_rows: int, num_kv_tokens: int, num_computed: int) -> int:
        asked.append((num_decode_rows, num_kv_tokens, num_computed))
        return 5

    scheduler = Scheduler(make_config(prefill_token_budget=budget))
    scheduler.add(make_request(0, num_prompt=5, max_tokens=8))
    for _ in range(2):
        plan = scheduler.plan()
        scheduler.commit(StepResult(plan.step, [7]))
    assert asked == [(0, 0, 0)], "nothing is asked for where no prompt waits"
    scheduler.add(make_request(1, num_prompt=12))
    for _ in range(2):
        plan = scheduler.plan()
        scheduler.commit(StepResult(plan.step, [7]))
    assert asked[1:] == [(1, 7, 0), (1, 8, 5)]


def test_a_prompt_that_must_be_split_leaves_the_spare_part_of_the_budget_and_one_that_fits_takes_it():
    loop = Loop(make_config(prefill_token_budget=10, split_budget=lambda num_decode_rows, budget: budget - 2))
    for key, num_prompt in enumerate((19, 10, 3, 6, 30)):
        loop.add(make_request(key, num_prompt=num_prompt, max_tokens=2))
    loop.run()
    lengths = [[len(chunk.token_ids) for chunk in plan.chunks] for plan in loop.plans if plan.chunks]
    assert lengths[:5] == [[8], [8], [3, 5], [5, 3], [6, 2]]
    loop.check_against_lone_runs()
