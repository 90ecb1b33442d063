"""How sequences and requests end: by their tokens, from outside, by the clock; and with plans ahead of results."""

from __future__ import annotations

import pytest
from device import EOS, lone_run
from schedule_loop import Clock, Loop, make_config, make_request

from flover_backend.engine.interface import RequestEnded
from flover_backend.request import FinishReason
from flover_backend.scheduler.plan import StepResult
from flover_backend.scheduler.scheduler import Scheduler

DEPTHS = pytest.mark.parametrize("pipeline_depth", [0, 1, 2])


def run_with_tokens(tokens: list[int], **params) -> tuple[list[int], FinishReason]:
    """One request whose sampled tokens are given."""
    scheduler = Scheduler(make_config())
    scheduler.add(make_request(1, **params))
    outputs, finish = [], FinishReason.NONE
    while finish is FinishReason.NONE:
        plan = scheduler.plan()
        (update,) = scheduler.commit(StepResult(plan.step, [tokens[len(outputs)]]))
        outputs, finish = outputs + list(update.token_ids), update.finish
    assert not scheduler.has_work
    scheduler.check_integrity()
    return outputs, finish


@pytest.mark.parametrize(
    ("params", "tokens", "finish"),
    [
        (dict(ignore_eos=False), [9, EOS], FinishReason.STOP),
        (dict(ignore_eos=True), [9, EOS, EOS, 9, 9, 9], FinishReason.LENGTH),
        (dict(ignore_eos=False, min_tokens=3), [EOS, EOS, EOS], FinishReason.STOP),
        (dict(ignore_eos=True, stop_token_ids=(7, 8)), [9, EOS, 8], FinishReason.STOP),
        (dict(stop_token_ids=(7,), min_tokens=2), [7, 9, 7], FinishReason.STOP),
        (dict(max_tokens=1), [9], FinishReason.LENGTH),
        (dict(max_tokens=2, ignore_eos=False), [9, EOS], FinishReason.STOP),
        (dict(num_prompt=60, max_tokens=4), [9, 9, 9, 9], FinishReason.LENGTH),
    ],
)
def test_a_sequence_ends_by_eos_stop_ids_and_length_but_not_before_min_tokens(params, tokens, finish):
    assert run_with_tokens([*tokens, 9], **params) == (tokens, finish)


@DEPTHS
@pytest.mark.parametrize("num_steps", range(7))
def test_a_cancelled_request_ends_at_the_next_boundary_in_every_phase(pipeline_depth, num_steps):
    """Queued (0 steps), in prefill (1-3), decoding (4-6); a neighbour is untouched."""
    loop = Loop(make_config(pipeline_depth=pipeline_depth, prefill_token_budget=5))
    loop.add(make_request(0, num_prompt=2, max_tokens=12))
    loop.add(make_request(1, num_prompt=16, max_tokens=12, n=2))
    for _ in range(num_steps):
        loop.step()
    loop.scheduler.cancel(1)
    assert loop.scheduler.num_running_rows <= 1, "rows are free for the next plan"
    events = loop.step()
    assert [e for e in events if e.key == 1] == [
        RequestEnded(1, FinishReason.CANCELLED, "the request was cancelled"),
    ]
    loop.run()
    loop.check_against_lone_runs()


def test_cancelling_what_is_unknown_or_over_does_nothing():
    loop = Loop(make_config())
    loop.add(make_request(1))
    loop.run()
    loop.scheduler.cancel(1)
    loop.scheduler.cancel(77)
    loop.scheduler.finish(1, 0, 1)
    loop.scheduler.finish(77, 0, 1)
    assert not loop.scheduler.has_work
    assert loop.scheduler.counters.retracted_tokens == 0


def test_a_cancelled_request_that_never_ran_still_gets_its_end():
    loop = Loop(make_config())
    loop.add(make_request(1))
    loop.scheduler.cancel(1)
    assert loop.scheduler.has_work
    loop.run()
    assert loop.plans[0].is_empty and loop.received[1].ended is not None


@DEPTHS
def test_a_deadline_before_the_first_token_ends_the_request(pipeline_depth):
    clock = Clock()
    loop = Loop(make_config(clock=clock, pipeline_depth=pipeline_depth, prefill_token_budget=2))
    loop.add(make_request(1, num_prompt=9, deadline=5.0))
    loop.add(make_request(2, num_prompt=2, deadline=5.1))
    loop.step()
    clock.now = 5.0
    loop.run()
    assert loop.received[1].ended == RequestEnded(1, FinishReason.DEADLINE, "deadline_ms passed before the first token")
    loop.check_against_lone_runs()


@DEPTHS
def test_a_deadline_after_the_first_token_ends_each_sequence_with_what_there_is(pipeline_depth):
    clock = Clock()
    loop = Loop(make_config(clock=clock, pipeline_depth=pipeline_depth))
    loop.add(make_request(1, max_tokens=30, n=2, deadline=5.0))
    for _ in range(5):
        loop.step()
    before = [len(tokens) for tokens in loop.received[1].tokens]
    clock.now = 6.0
    loop.run()
    assert loop.received[1].finish == [FinishReason.DEADLINE] * 2 and min(before) > 0
    assert [len(tokens) for tokens in loop.received[1].tokens] == before
    loop.check_against_lone_runs()


def test_deadlines_of_requests_that_are_over_do_not_pile_up():
    loop = Loop(make_config())
    for key in range(500):
        loop.add(make_request(key, num_prompt=1, max_tokens=1, deadline=1e12))
        loop.run()
    assert len(loop.scheduler._deadlines) <= 65


def test_a_stop_string_ends_the_sequence_and_takes_back_what_came_after_it():
    loop = Loop(make_config())
    loop.add(make_request(1, max_tokens=20))
    for _ in range(5):
        loop.step()
    loop.finish(1, 0, 3)
    events = loop.step()
    assert [(e.token_ids, e.finish) for e in events] == [((), FinishReason.STOP)]
    counters = loop.scheduler.counters
    assert (counters.generated_tokens, counters.retracted_tokens) == (5, 2)
    assert not loop.scheduler.has_work


@pytest.mark.parametrize(("index", "num_tokens"), [(5, 1), (-1, 1), (0, 1)])
def test_a_stop_string_in_no_sequence_or_before_any_token_is_ignored(index, num_tokens):
    loop = Loop(make_config(prefill_token_budget=2))
    loop.add(make_request(1, num_prompt=5))
    loop.step()
    loop.scheduler.finish(1, index, num_tokens)
    loop.run()
    loop.check_against_lone_runs()


@pytest.mark.parametrize("pipeline_depth", [1, 2])
def test_tokens_that_are_scheduled_already_are_not_scheduled_again(pipeline_depth):
    loop = Loop(make_config(pipeline_depth=pipeline_depth))
    loop.add(make_request(1, max_tokens=4))
    loop.run()
    computing = [plan for plan in loop.plans if not plan.is_empty]
    assert len(computing) == 4 and len(loop.plans) == 4 + pipeline_depth, "empty plans drain the pipeline"
    assert loop.scheduler.counters.wasted_tokens == 0
    loop.check_against_lone_runs()


def test_rows_and_blocks_are_free_once_the_last_token_is_scheduled():
    loop = Loop(make_config(pipeline_depth=1, max_rows=1))
    loop.add(make_request(1, max_tokens=1))
    loop.add(make_request(2, max_tokens=1))
    loop.step()
    loop.step()
    assert [len(plan.joins) for plan in loop.plans] == [1, 1], "request 2 does not wait for the result of request 1"
    loop.run()
    loop.check_against_lone_runs()


@pytest.mark.parametrize("pipeline_depth", [0, 1, 2])
def test_an_eos_wastes_as_many_iterations_as_plans_are_ahead(pipeline_depth):
    key = next(k for k in range(1, 100) if len(lone_run(make_request(k, ignore_eos=False), 0, 64, (EOS,))[0]) == 3)
    loop = Loop(make_config(pipeline_depth=pipeline_depth))
    loop.add(make_request(key, ignore_eos=False, max_tokens=6))
    loop.run()
    assert loop.scheduler.counters.wasted_tokens == pipeline_depth
    loop.check_against_lone_runs()


def test_a_result_that_is_not_due_is_refused_and_changes_nothing():
    scheduler = Scheduler(make_config(pipeline_depth=1))
    scheduler.add(make_request(1))
    first = scheduler.plan()
    with pytest.raises(ValueError, match="result of step 0 came while 1 plans are in flight"):
        scheduler.commit(StepResult(first.step, [3]))
    assert scheduler.commit(None) == []
    scheduler.plan()
    for result in (None, StepResult(1, [3]), StepResult(0, []), StepResult(0, [3, 4])):
        with pytest.raises(ValueError, match="due is step 0 with 1 tokens"):
            scheduler.commit(result)
    assert [update.token_ids for update in scheduler.commit(StepResult(0, [3]))] == [(3,)]


def test_nothing_to_do_is_an_empty_plan():
    loop = Loop(make_config())
    assert not loop.scheduler.has_work and loop.step() == []
    assert loop.plans[0].is_empty and loop.scheduler.counters.iterations == 0
