"""What becomes of the holes that finished rows leave, in the three modes."""

from __future__ import annotations

import pytest
from schedule_loop import Loop, make_config, make_request


def four_rows(reorder: str, **changes) -> Loop:
    """Requests 0 .. 3 in rows 0 .. 3, decoding."""
    loop = Loop(make_config(reorder=reorder, max_rows=6, **changes))
    for key in range(4):
        loop.add(make_request(key, max_tokens=20))
    loop.step()
    return loop


@pytest.mark.parametrize("reorder", ["rows", "compact"])
def test_the_last_live_rows_move_into_the_holes(reorder):
    loop = four_rows(reorder)
    loop.scheduler.cancel(0)
    loop.scheduler.cancel(1)
    loop.step()
    plan = loop.plans[-1]
    assert (plan.row_moves, plan.dead_rows, plan.num_rows) == ([(3, 0), (2, 1)], [2, 3], 2)
    assert plan.decode_rows == [0, 1] and plan.idle_rows == []
    assert loop.scheduler.counters.rows_moved == 2
    loop.run()
    loop.check_against_lone_runs()


@pytest.mark.parametrize("reorder", ["rows", "compact"])
def test_a_join_takes_the_hole_so_that_no_row_moves(reorder):
    loop = four_rows(reorder)
    loop.scheduler.cancel(1)
    loop.add(make_request(9))
    loop.step()
    plan = loop.plans[-1]
    assert (plan.row_moves, plan.dead_rows, plan.num_rows) == ([], [1], 4)
    assert [join.row for join in plan.joins] == [1]
    loop.run()
    loop.check_against_lone_runs()


def test_only_the_holes_that_joins_leave_are_filled_by_moves():
    loop = four_rows("rows")
    for key in (0, 1, 2):
        loop.scheduler.cancel(key)
    loop.add(make_request(9))
    loop.step()
    plan = loop.plans[-1]
    assert (plan.row_moves, [join.row for join in plan.joins], plan.num_rows) == ([(3, 0)], [1], 2)


def test_the_last_row_leaves_without_a_move():
    loop = four_rows("rows")
    loop.scheduler.cancel(3)
    loop.step()
    plan = loop.plans[-1]
    assert (plan.row_moves, plan.dead_rows, plan.num_rows) == ([], [3], 3)
    assert loop.scheduler.counters.reorders == 0


def test_none_computes_interior_holes_for_nothing_and_trims_trailing_ones():
    loop = four_rows("none")
    loop.scheduler.cancel(1)
    loop.scheduler.cancel(3)
    loop.step()
    plan = loop.plans[-1]
    assert (plan.row_moves, plan.dead_rows, plan.num_rows) == ([], [1, 3], 3)
    assert (plan.idle_rows, plan.decode_rows) == ([1], [0, 2])
    assert loop.scheduler.last_plan.num_live == 2
    loop.add(make_request(9))
    loop.step()
    assert [join.row for join in loop.plans[-1].joins] == [1] and loop.plans[-1].idle_rows == []
    loop.run()
    loop.check_against_lone_runs()


def test_compact_packs_the_blocks_at_a_bounded_rate_and_rows_does_not():
    moved = {}
    for reorder in ("rows", "compact"):
        loop = four_rows(reorder, max_block_moves=1)
        loop.scheduler.cancel(0)
        loop.scheduler.cancel(1)
        loop.step()
        loop.step()
        moved[reorder] = [len(plan.block_moves) for plan in loop.plans]
        assert loop.scheduler.counters.blocks_moved == sum(moved[reorder])
        loop.run()
        loop.check_against_lone_runs()
    assert moved == {"rows": [0, 0, 0], "compact": [0, 1, 1]}


def test_a_join_takes_the_free_blocks_before_compaction_looks():
    loop = four_rows("compact", max_block_moves=100)
    loop.scheduler.cancel(0)
    loop.add(make_request(9))
    loop.step()
    assert loop.plans[-1].block_moves == [], "the new prompt fills the holes; nothing is copied for it"
    assert loop.scheduler.allocator.is_packed


def test_the_same_story_gives_the_same_plans():
    def plans(reorder: str):
        loop = four_rows(reorder, num_blocks=12)
        loop.add(make_request(9, n=2))
        loop.scheduler.cancel(2)
        loop.run()
        return loop.plans

    for reorder in ("none", "rows", "compact"):
        assert plans(reorder) == plans(reorder)
