"""Out of blocks in mid-decode: the newest pays, keeps its tokens, and comes back before the queue."""

from __future__ import annotations

import pytest
from schedule_loop import Loop, make_config, make_request


def crowded(pipeline_depth: int = 0, **changes) -> Loop:
    """Two requests whose prompts all but fill the KV buffer of 5 blocks, and a third that waits."""
    loop = Loop(make_config(num_blocks=5, block_size=4, pipeline_depth=pipeline_depth, **changes))
    loop.add(make_request(0, num_prompt=7, max_tokens=6))
    loop.add(make_request(1, num_prompt=7, max_tokens=6))
    loop.add(make_request(2, num_prompt=3, max_tokens=2))
    return loop


def step_until_preempted(loop: Loop) -> None:
    while not loop.scheduler.counters.preemptions:
        assert loop.scheduler.has_work, "everything ended without a preemption"
        loop.step()


@pytest.mark.parametrize("pipeline_depth", [0, 1, 2])
@pytest.mark.parametrize("reorder", ["none", "rows", "compact"])
def test_the_newest_arrival_is_preempted_and_recomputed_with_its_tokens(pipeline_depth, reorder):
    loop = crowded(pipeline_depth, reorder=reorder)
    step_until_preempted(loop)
    sent = list(loop.received[1].tokens[0])
    assert loop.scheduler.counters.preemptions == 1
    assert loop.plans[-1].decode_rows == [0] and loop.plans[-1].dead_rows == [1]
    loop.run()
    again = [join for plan in loop.plans for join in plan.joins if join.output_ids]
    assert [join.prompt_ids for join in again] == [loop.received[1].request.prompt_ids]
    assert again[0].output_ids[: len(sent)] == sent
    assert again[0].output_ids == loop.received[1].tokens[0][: len(again[0].output_ids)]
    loop.check_against_lone_runs()


def test_a_preempted_request_goes_ahead_of_the_queue():
    loop = crowded()
    step_until_preempted(loop)
    assert loop.scheduler.num_waiting_requests == 2
    loop.run()
    joins = [join.prompt_ids for plan in loop.plans for join in plan.joins]
    assert joins == [loop.received[key].request.prompt_ids for key in (0, 1, 1, 2)]


def test_a_preempted_sequence_waits_for_its_token_in_flight():
    """Request 0 is cancelled right after the plan that preempted request 1: blocks are free, the token is not known."""
    loop = Loop(make_config(num_blocks=5, block_size=4, pipeline_depth=2))
    loop.add(make_request(0, num_prompt=7, max_tokens=6))
    loop.add(make_request(1, num_prompt=7, max_tokens=6))
    step_until_preempted(loop)
    victim = loop.scheduler._groups[1].parent
    assert victim.num_in_flight == 1
    loop.scheduler.cancel(0)
    loop.step()
    assert loop.plans[-1].is_empty, "the KV buffer is free, but what to prefill is known only now"
    assert victim.num_in_flight == 0
    loop.step()
    assert loop.plans[-1].joins[0].output_ids == loop.received[1].tokens[0]
    loop.run()
    loop.check_against_lone_runs()


def test_the_newest_preempts_itself_when_it_is_the_one_that_needs_a_block():
    loop = Loop(make_config(num_blocks=5, block_size=4))
    loop.add(make_request(0, num_prompt=6, max_tokens=8))
    loop.add(make_request(1, num_prompt=8, max_tokens=5))
    step_until_preempted(loop)
    assert loop.plans[-1].decode_rows == [0]
    loop.run()
    loop.check_against_lone_runs()


def test_a_request_is_preempted_in_mid_prefill_whole_and_without_a_token():
    loop = Loop(make_config(num_blocks=9, block_size=4, prefill_token_budget=2, max_model_len=40))
    loop.add(make_request(0, num_prompt=4, max_tokens=12))
    loop.add(make_request(1, num_prompt=17, max_tokens=4, n=2))
    step_until_preempted(loop)
    assert loop.received[1].tokens == [[], []]
    assert loop.scheduler.allocator.num_used == 4, "only request 0's blocks are held"
    loop.run()
    assert loop.started == [0, 1], "it starts once; coming back is not a start"
    loop.check_against_lone_runs()


def test_a_preempted_request_counts_as_waiting_and_can_be_cancelled():
    loop = crowded()
    step_until_preempted(loop)
    assert loop.scheduler.num_running_requests == 1
    loop.scheduler.cancel(1)
    loop.run()
    assert loop.received[1].ended is not None
    loop.check_against_lone_runs()


def test_a_token_in_flight_at_preemption_may_be_the_last_one():
    """EOS was sampled by the iteration before the one that preempts: the request ends without coming back."""
    preempted_with_their_last_token_in_flight = 0
    for key in range(1, 300):
        loop = Loop(make_config(num_blocks=5, block_size=4, pipeline_depth=1))
        loop.add(make_request(0, num_prompt=7, max_tokens=8))
        loop.add(make_request(key, num_prompt=7, max_tokens=8, ignore_eos=False))
        loop.run()
        loop.check_against_lone_runs()
        joins = sum(len(plan.joins) for plan in loop.plans)
        preempted_with_their_last_token_in_flight += loop.scheduler.counters.preemptions == 1 and joins == 2
    assert preempted_with_their_last_token_in_flight > 0
