"""n > 1: one prefill, n rows, shared full prompt blocks, a copy of the partly filled one."""

from __future__ import annotations

import pytest
from schedule_loop import Loop, make_config, make_request

from flover_backend.request import FinishReason
from flover_backend.scheduler.plan import Fork
from flover_backend.scheduler.seeds import sequence_seed


def test_full_prompt_blocks_are_shared_and_the_partial_one_is_copied_after_the_forward():
    loop = Loop(make_config(block_size=4))
    loop.add(make_request(1, num_prompt=10, n=3))
    loop.step()
    (plan,) = loop.plans
    tables = {update.row: update.blocks for update in plan.table_updates}
    assert tables == {0: (1, 2, 3), 1: (1, 2, 4), 2: (1, 2, 5)}
    assert plan.block_copies == [(3, 4), (3, 5)]
    assert plan.forks == [Fork(0, (1, 2))] and len(plan.chunks) == 1
    assert [join.seed for join in plan.joins] == [sequence_seed(plan.joins[0].seed, index) for index in range(3)]
    loop.run()
    loop.check_against_lone_runs()


def test_a_prompt_that_fills_its_blocks_needs_no_copy():
    loop = Loop(make_config(block_size=4))
    loop.add(make_request(1, num_prompt=8, n=2))
    loop.step()
    assert loop.plans[0].block_copies == [] and loop.scheduler.allocator.num_used == 2
    loop.run()
    loop.check_against_lone_runs()


def test_children_join_with_the_last_chunk_and_their_rows_are_reserved_before():
    loop = Loop(make_config(max_rows=3, prefill_token_budget=4))
    loop.add(make_request(1, num_prompt=10, n=3))
    loop.add(make_request(2, num_prompt=2))
    for _ in range(3):
        loop.step()
    assert [len(plan.joins) for plan in loop.plans] == [1, 0, 2]
    assert [len(plan.forks) for plan in loop.plans] == [0, 0, 1]
    assert loop.scheduler.num_running_rows == 3 and loop.started == [1]
    loop.run()
    loop.check_against_lone_runs()


def test_samples_end_one_by_one_and_the_last_update_ends_the_request():
    loop = Loop(make_config())
    loop.add(make_request(1, num_prompt=6, n=3, max_tokens=12))
    loop.step()
    loop.finish(1, 0, 1)
    first = loop.step()[0]
    assert (first.index, first.token_ids, first.finish) == (0, (), FinishReason.STOP)
    assert loop.scheduler.num_running_rows == 2
    loop.run()
    loop.check_against_lone_runs()


@pytest.mark.parametrize("pipeline_depth", [0, 1])
def test_preempted_samples_are_recomputed_each_by_itself(pipeline_depth):
    loop = Loop(make_config(num_blocks=10, block_size=4, pipeline_depth=pipeline_depth))
    loop.add(make_request(0, num_prompt=8, max_tokens=14))
    loop.add(make_request(1, num_prompt=6, max_tokens=9, n=3))
    loop.run()
    again = [join for plan in loop.plans for join in plan.joins if join.output_ids]
    assert again and sum(len(plan.forks) for plan in loop.plans) == 1
    loop.check_against_lone_runs()


def test_compaction_moves_a_shared_block_once_for_all_its_holders():
    loop = Loop(make_config(reorder="compact", block_size=4, max_block_moves=100))
    loop.add(make_request(0, num_prompt=16, max_tokens=2))
    loop.add(make_request(1, num_prompt=9, max_tokens=8, n=3))
    loop.step()
    assert loop.plans[0].block_moves == []
    loop.step()
    loop.step()
    moves = loop.plans[2].block_moves
    updates = [update.blocks[0] for update in loop.plans[2].table_updates]
    shared = [destination for _, destination in moves if updates.count(destination) == 3]
    assert shared and len(dict.fromkeys(source for source, _ in moves)) == len(moves)
    loop.run()
    loop.check_against_lone_runs()
