"""check_integrity finds each kind of damage and says what it is; a wrong configuration is refused by name."""

from __future__ import annotations

import pytest
from schedule_loop import Loop, make_config, make_request

from flover_backend.kv.blocks import IntegrityError
from flover_backend.scheduler.sequence import SequenceState


def busy_loop() -> Loop:
    """Requests 0 and 1 run (1 with n = 2), 2 waits."""
    loop = Loop(make_config(max_rows=3, pipeline_depth=1))
    for key, n in enumerate((1, 2, 1)):
        loop.add(make_request(key, n=n))
    loop.step()
    loop.step()
    return loop


def swap_rows(scheduler):
    first, second = scheduler._residents.in_order()[:2]
    first.row, second.row = second.row, first.row


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda s: s.allocator.allocate(1), "a leak"),
        (lambda s: s._tables.assign(99, 1), "sequences .* hold blocks, live are .*: a leak"),
        (swap_rows, "row 0 holds"),
        (lambda s: setattr(s._residents, "rows_in_use", 2), "2 rows counted, 3 needed"),
        (lambda s: setattr(s._residents.in_order()[0], "num_computed", 1000), "too few blocks for 1000"),
        (lambda s: setattr(s._residents.in_order()[0], "num_in_flight", 2), "2 tokens in flight"),
        (lambda s: setattr(s._groups[2].parent, "state", SequenceState.FINISHED), "counts 1 unfinished, has 0"),
        (lambda s: setattr(s._groups[2].parent, "state", SequenceState.RUNNING), "resident sequences are"),
        (lambda s: s._queue.remove(s._groups[2].parent), "waiting sequences are"),
        (lambda s: s._queue.requeue(s._residents.newest()), "arrival order|waiting sequences"),
    ],
)
def test_damage_is_found_and_described(damage, text):
    loop = busy_loop()
    loop.scheduler.check_integrity()
    damage(loop.scheduler)
    with pytest.raises(IntegrityError, match=text):
        loop.scheduler.check_integrity()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_rows", 0),
        ("max_model_len", 0),
        ("block_size", 0),
        ("num_blocks", 0),
        ("max_queued_requests", 0),
        ("max_queued_tokens", -1),
        ("pipeline_depth", -1),
        ("max_block_moves", 0),
        ("prefill_token_budget", 0),
        ("reorder", "columns"),
    ],
)
def test_a_wrong_configuration_names_the_field_and_the_value(field, value):
    with pytest.raises(ValueError, match=rf"{field} is '?{value}'?"):
        make_config(**{field: value})
