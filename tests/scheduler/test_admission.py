"""What is refused, what waits, and that arrival order decides."""

from __future__ import annotations

import pytest
from schedule_loop import Loop, make_config, make_request

from flover_backend.errors import DoesNotFit, InvalidRequest, QueueFull
from flover_backend.request import Request, SamplingParams


@pytest.mark.parametrize(
    ("config", "params", "parts"),
    [
        (dict(max_model_len=20), dict(num_prompt=15, max_tokens=6), ("15 tokens", "max_tokens 6", "21", "20")),
        (dict(num_blocks=5), dict(num_prompt=15, max_tokens=7), ("15 tokens", "max_tokens 7", "6 blocks", "has 5")),
        (dict(max_rows=3), dict(n=4), ("n: 4", "1 .. 3", "max_rows")),
        (dict(num_blocks=9), dict(num_prompt=9, max_tokens=8, n=4), ("n 4", "10 blocks", "has 9")),
    ],
)
def test_what_can_never_fit_is_refused_and_names_the_numbers_and_the_limit(config, params, parts):
    loop = Loop(make_config(**config))
    with pytest.raises(DoesNotFit) as error:
        loop.add(make_request(1, **params))
    assert all(part in str(error.value) for part in parts), error.value
    assert not loop.scheduler.has_work


@pytest.mark.parametrize(
    ("config", "params"),
    [
        (dict(max_model_len=20), dict(num_prompt=14, max_tokens=6)),
        (dict(num_blocks=5), dict(num_prompt=15, max_tokens=6)),
        (dict(max_rows=4), dict(n=4)),
        (dict(num_blocks=10), dict(num_prompt=9, max_tokens=8, n=4)),
    ],
)
@pytest.mark.parametrize("pipeline_depth", [0, 1])
def test_what_just_fits_runs_to_its_end_alone_without_preemption(config, params, pipeline_depth):
    loop = Loop(make_config(pipeline_depth=pipeline_depth, **config))
    loop.add(make_request(1, **params))
    loop.run()
    loop.check_against_lone_runs()
    assert loop.scheduler.counters.preemptions == 0


@pytest.mark.parametrize(
    ("changes", "name"), [(dict(num_prompt=0), "prompt_ids"), (dict(max_tokens=0), "max_tokens"), (dict(n=0), "n")]
)
def test_what_is_no_request_is_refused_by_name(changes, name):
    loop = Loop(make_config())
    params = SamplingParams(max_tokens=changes.get("max_tokens", 1), n=changes.get("n", 1))
    request = Request(key=1, prompt_ids=[5] * changes.get("num_prompt", 1), params=params, arrival_time=0.0)
    with pytest.raises(InvalidRequest, match=f"{name}: 0 given; at least 1"):
        loop.add(request)
    assert not loop.scheduler.has_work


def test_a_key_that_is_alive_is_refused_and_one_that_is_over_may_come_again():
    loop = Loop(make_config())
    loop.add(make_request(1))
    with pytest.raises(InvalidRequest, match="key: 1"):
        loop.add(make_request(1))
    loop.run()
    loop.add(make_request(1))
    loop.run()


def test_a_full_queue_says_how_deep_it_is_and_keeps_what_it_has():
    loop = Loop(make_config(max_queued_requests=2))
    loop.add(make_request(1, num_prompt=3))
    loop.add(make_request(2, num_prompt=4))
    with pytest.raises(QueueFull, match=r"2 requests with 7 prompt tokens wait, .*allowed are 2 requests"):
        loop.scheduler.add(make_request(3))
    loop.step()
    loop.add(make_request(4))
    loop.run()
    loop.check_against_lone_runs()


def test_the_queue_is_bounded_by_prompt_tokens_but_an_empty_one_takes_any_prompt():
    loop = Loop(make_config(max_queued_tokens=10))
    loop.add(make_request(1, num_prompt=30))
    with pytest.raises(QueueFull, match="1 requests with 30 prompt tokens"):
        loop.scheduler.add(make_request(2, num_prompt=1))
    loop.step()
    for key in (3, 4):
        loop.add(make_request(key, num_prompt=5))
    assert (loop.scheduler.num_queued_requests, loop.scheduler.num_queued_tokens) == (2, 10)
    with pytest.raises(QueueFull):
        loop.scheduler.add(make_request(5, num_prompt=1))


def test_any_number_joins_in_one_iteration():
    loop = Loop(make_config(max_rows=4))
    for key in range(4):
        loop.add(make_request(key))
    loop.step()
    assert [join.row for join in loop.plans[0].joins] == [0, 1, 2, 3]
    assert loop.scheduler.last_plan.started_keys == (0, 1, 2, 3)


def test_a_prompt_is_admitted_with_a_block_to_grow_for_each_running_row_not_with_its_whole_context():
    loop = Loop(make_config(num_blocks=5, block_size=4, max_rows=4))
    for key in range(4):
        loop.add(make_request(key, num_prompt=4, max_tokens=12))
    loop.step()
    assert len(loop.plans[0].joins) == 3, "1 + (1 + 1) + (1 + 2); the whole context of each is 4 blocks"
    loop.run()
    loop.check_against_lone_runs()


def test_nobody_overtakes_the_head_of_the_queue():
    loop = Loop(make_config(num_blocks=8, block_size=4))
    loop.add(make_request(0, num_prompt=20, max_tokens=3))
    loop.add(make_request(1, num_prompt=20, max_tokens=2))
    loop.add(make_request(2, num_prompt=1, max_tokens=2))
    loop.step()
    assert loop.started == [0], "request 2 would fit beside request 0, request 1 does not"
    loop.run()
    assert loop.started == [0, 1, 2]
    loop.check_against_lone_runs()


def test_gauges_follow_the_requests():
    loop = Loop(make_config(max_rows=2))
    for key in range(3):
        loop.add(make_request(key, num_prompt=5))
    scheduler = loop.scheduler
    assert (scheduler.num_running_requests, scheduler.num_waiting_requests, scheduler.num_queued_tokens) == (0, 3, 15)
    loop.step()
    assert (scheduler.num_running_requests, scheduler.num_waiting_requests, scheduler.num_queued_tokens) == (2, 1, 5)
    assert (scheduler.num_running_rows, scheduler.allocator.num_used) == (2, 4)
    loop.run()
    assert (scheduler.num_running_requests, scheduler.num_running_rows, scheduler.allocator.num_used) == (0, 0, 0)
    assert scheduler.allocator.high_water_mark >= 4
