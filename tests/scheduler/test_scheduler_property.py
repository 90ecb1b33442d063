"""Random schedules against the simulated device; schedule_loop.py says what is checked at each step."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schedule_loop import Clock, Loop, make_config, make_request

from flover_backend.errors import DoesNotFit, QueueFull

BUDGETS = (1, 3, 8, 64, lambda num_decode_rows, num_kv_tokens, num_computed: max(1, 12 - 3 * num_decode_rows))

configs = st.builds(
    lambda capacity, block_size, **rest: dict(num_blocks=capacity // block_size, block_size=block_size, **rest),
    capacity=st.integers(28, 56),
    block_size=st.sampled_from((4, 2, 1)),
    max_rows=st.integers(3, 8),
    max_model_len=st.sampled_from((28, 40)),
    reorder=st.sampled_from(("none", "rows", "compact")),
    prefill_token_budget=st.sampled_from(BUDGETS),
    split_budget=st.sampled_from((None, lambda num_decode_rows, budget: -(-2 * budget // 3))),
    max_queued_requests=st.sampled_from((100, 100, 2)),
    max_queued_tokens=st.sampled_from((1000, 1000, 16)),
    pipeline_depth=st.sampled_from((0, 1, 2)),
    max_block_moves=st.sampled_from((100, 2, 1)),
)
adds = st.tuples(
    st.just("add"),
    st.fixed_dictionaries(
        dict(
            num_prompt=st.integers(1, 14),
            max_tokens=st.integers(1, 10),
            min_tokens=st.integers(0, 4),
            n=st.sampled_from((1, 1, 1, 2, 3)),
            ignore_eos=st.booleans(),
            stop_token_ids=st.sampled_from(((), (2, 3, 4))),
            logprobs=st.sampled_from((-1, 0)),
        )
    ),
    st.sampled_from((None, None, None, 1, 3, 6, 9, 15)),
)
steps = st.tuples(st.just("step"), st.integers(1, 4))
cancels = st.tuples(st.just("cancel"), st.integers(0, 5), st.booleans())
finishes = st.tuples(st.just("finish"), st.integers(0, 5), st.integers(0, 2), st.integers(0, 4), st.booleans())
actions = st.one_of(adds, adds, adds, steps, steps, cancels, finishes)
long_answers = st.tuples(
    st.just("add"),
    st.builds(dict, num_prompt=st.integers(1, 10), max_tokens=st.integers(8, 18), n=st.sampled_from((1, 1, 2))),
    st.none(),
)
crowds = st.one_of(long_answers, long_answers, steps)


class Story:
    """Applies random actions to a loop. Actions marked `inside` happen between plan and commit of a step."""

    def __init__(self, config: dict) -> None:
        self.clock = Clock()
        self.loop = Loop(make_config(clock=self.clock, **config))
        self.next_key = 0

    def add(self, params: dict, deadline: int | None) -> None:
        when = None if deadline is None else self.clock.now + deadline
        request = make_request(self.next_key, deadline=when, **params)
        self.next_key += 1
        before = self.loop.scheduler.num_queued_requests
        try:
            self.loop.add(request)
        except DoesNotFit as error:
            assert f"max_tokens {params['max_tokens']}" in str(error)
        except QueueFull as error:
            assert f"{before} requests" in str(error) and before > 0

    def step(self, count: int) -> None:
        for _ in range(count):
            self.loop.step()
            self.clock.now += 1

    def cancel(self, back_in_time: int, inside: bool) -> None:
        key = self.next_key - 1 - back_in_time
        self._do(lambda: self.loop.scheduler.cancel(key), inside)

    def finish(self, back_in_time: int, index: int, back: int, inside: bool) -> None:
        received = self.loop.received.get(self.next_key - 1 - back_in_time)
        if received is not None:
            index %= len(received.tokens)
            num_tokens = len(received.tokens[index]) - back
            if num_tokens > 0:
                self._do(lambda: self.loop.finish(received.request.key, index, num_tokens), inside)

    def _do(self, action, inside: bool) -> None:
        if inside:
            self.loop.before_commit = action
            self.step(1)
        else:
            action()


def check_counters(loop: Loop) -> None:
    counters = loop.scheduler.counters
    generated = sum(len(tokens) for received in loop.received.values() for tokens in received.tokens)
    assert counters.generated_tokens == generated
    assert counters.retracted_tokens == sum(received.num_retracted for received in loop.received.values())
    assert counters.joins == counters.leaves == sum(len(plan.joins) for plan in loop.plans)
    assert counters.rows_moved == sum(len(plan.row_moves) for plan in loop.plans)
    assert counters.blocks_moved == sum(len(plan.block_moves) for plan in loop.plans)
    assert counters.decode_tokens == sum(len(plan.decode_rows) for plan in loop.plans)
    assert counters.prefill_tokens == sum(len(chunk.token_ids) for plan in loop.plans for chunk in plan.chunks)
    assert counters.iterations == sum(not plan.is_empty for plan in loop.plans)
    sampled = sum(len(plan.sampled_rows()) for plan in loop.plans)
    assert sampled == counters.generated_tokens + counters.wasted_tokens


random_schedules = settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@random_schedules
@given(configs, st.lists(actions, min_size=20, max_size=80))
def test_any_schedule_gives_each_request_the_tokens_of_its_lone_run(config, story_actions):
    play(Story(config), story_actions)


@random_schedules
@given(configs, st.lists(crowds, min_size=15, max_size=40))
def test_too_many_long_answers_for_the_kv_buffer_all_end_with_the_tokens_of_their_lone_runs(config, story_actions):
    play(Story(config), story_actions)


def play(story: Story, story_actions: list[tuple]) -> None:
    """Act, then run to the end and compare."""
    for name, *arguments in story_actions:
        getattr(story, name)(*arguments)
    while story.loop.scheduler.has_work:
        story.step(1)
        assert len(story.loop.plans) < 5000, "no progress"
    story.loop.check_idle()
    story.loop.check_against_lone_runs()
    check_counters(story.loop)
