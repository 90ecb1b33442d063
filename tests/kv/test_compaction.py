"""Compaction: bounded, converging, and safe whatever the order in which its moves are carried out."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from flover_backend.kv.blocks import BlockAllocator
from flover_backend.kv.compaction import compact
from flover_backend.kv.tables import BlockTables


def scattered(num_sequences: int, released: list[int]) -> BlockTables:
    """Sequences of two blocks each, some of them gone."""
    tables = BlockTables(BlockAllocator(2 * num_sequences))
    for uid in range(num_sequences):
        tables.assign(uid, 2)
    for uid in dict.fromkeys(released):
        tables.release(uid)
    return tables


def test_the_highest_blocks_go_to_the_lowest_holes():
    tables = scattered(4, [0, 2])
    assert [(m.source, m.destination) for m in compact(tables, 10)] == [(8, 1), (7, 2)]
    assert (tables[1], tables[3]) == ([3, 4], [2, 1])


def test_the_bound_holds_and_the_rest_follows_in_the_next_calls():
    tables = scattered(6, [0, 1, 2])
    assert [len(compact(tables, 2)) for _ in range(4)] == [2, 2, 2, 0]
    assert tables.allocator.is_packed


def test_a_packed_buffer_and_an_empty_one_move_nothing():
    assert compact(scattered(3, []), 10) == []
    assert compact(scattered(3, [0, 1, 2]), 10) == []


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 9), max_size=10), st.integers(1, 5))
def test_compaction_converges_and_no_move_reads_what_another_wrote(released, max_moves):
    tables = scattered(10, released)
    needed = sum(block > tables.allocator.num_used for uid in range(10) if uid in tables for block in tables[uid])
    total = 0
    while moves := compact(tables, max_moves):
        assert len(moves) <= max_moves
        destinations = [move.destination for move in moves]
        assert not any(move.source in destinations for move in moves)
        total += len(moves)
        tables.check_integrity()
    assert tables.allocator.is_packed and total == needed
