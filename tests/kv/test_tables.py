"""BlockTables: who holds which block, shared prompt blocks, and the reverse map."""

from __future__ import annotations

import pytest

from flover_backend.kv.blocks import BlockAllocator, IntegrityError
from flover_backend.kv.tables import BlockMove, BlockTables


def make_tables(num_blocks: int = 10) -> BlockTables:
    return BlockTables(BlockAllocator(num_blocks))


def test_a_table_grows_in_order_and_gives_everything_back():
    tables = make_tables()
    tables.assign(7, 2)
    tables.assign(8, 1)
    tables.append(7)
    assert (tables[7], tables[8]) == ([1, 2, 4], [3])
    tables.release(7)
    assert 7 not in tables and tables.allocator.num_used == 1
    tables.check_integrity()


def test_shared_blocks_live_until_their_last_holder_and_own_ones_do_not():
    tables = make_tables()
    tables.assign(0, 3)
    tables.share(parent=0, child=1, num_shared=2, num_own=1)
    assert tables[1] == [1, 2, 4]
    tables.release(0)
    assert tables.allocator.num_used == 3
    tables.check_integrity()
    tables.release(1)
    assert tables.allocator.num_used == 0


def test_relocating_a_shared_block_changes_every_table_that_holds_it():
    tables = make_tables()
    tables.assign(9, 1)
    tables.assign(0, 2)
    tables.share(parent=0, child=1, num_shared=2, num_own=0)
    tables.release(9)
    assert tables.relocate_highest() == BlockMove(3, 1, ((0, 1), (1, 1)))
    assert tables[0] == tables[1] == [2, 1]
    tables.check_integrity()


def test_a_second_table_for_a_sequence_is_refused_and_leaks_nothing():
    tables = make_tables()
    tables.assign(0, 1)
    for again in (lambda: tables.assign(0, 1), lambda: tables.share(0, 0, 1, 1)):
        with pytest.raises(IntegrityError, match="sequence 0 has 1 blocks already"):
            again()
    tables.check_integrity()
    assert tables.allocator.num_used == 1


def test_sharing_without_free_blocks_raises_and_changes_nothing():
    tables = make_tables(2)
    tables.assign(0, 2)
    with pytest.raises(IntegrityError, match="1 blocks asked, 0 free"):
        tables.share(parent=0, child=1, num_shared=1, num_own=1)
    tables.check_integrity()


def test_check_holders_names_a_sequence_that_kept_its_blocks():
    tables = make_tables()
    tables.assign(3, 1)
    tables.check_holders([3])
    with pytest.raises(IntegrityError, match=r"sequences \[3\] hold blocks, live are \[\]: a leak"):
        tables.check_holders([])


@pytest.mark.parametrize(
    ("tamper", "text"),
    [
        (lambda t: t.allocator.allocate(1), "a leak"),
        (lambda t: t.allocator.fork([1]), "block 1 is in 1 tables and counts 2 references"),
        (lambda t: t._tables[0].append(1), "twice in the table of sequence 0"),
        (lambda t: t._holders.pop(2), "reverse map"),
    ],
)
def test_check_integrity_says_what_is_wrong(tamper, text):
    tables = make_tables()
    tables.assign(0, 2)
    tables.check_integrity()
    tamper(tables)
    with pytest.raises(IntegrityError, match=text):
        tables.check_integrity()
