"""BlockAllocator: lowest free id first, references, and misuse that changes nothing."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flover_backend.kv.blocks import BlockAllocator, IntegrityError


def test_ids_start_at_1_and_the_lowest_free_ones_are_taken_first():
    allocator = BlockAllocator(5)
    assert allocator.allocate(4) == [1, 2, 3, 4]
    allocator.free([3])
    allocator.free([1])
    assert allocator.allocate(3) == [1, 3, 5]
    assert (allocator.num_free, allocator.num_used, allocator.high_water_mark) == (0, 5, 5)


def test_a_shared_block_is_free_when_its_last_holder_frees_it():
    allocator = BlockAllocator(3)
    blocks = allocator.allocate(2)
    allocator.fork(blocks[:1])
    allocator.free(blocks)
    assert (allocator.num_used, allocator.references(1)) == (1, 1)
    allocator.free([1])
    assert allocator.num_used == 0


def test_the_high_water_mark_counts_shared_blocks_once_and_stays():
    allocator = BlockAllocator(8)
    blocks = allocator.allocate(3)
    allocator.fork(blocks)
    allocator.free(blocks)
    allocator.free(blocks)
    assert allocator.high_water_mark == 3


@pytest.mark.parametrize("num_blocks", [0, -1])
def test_an_empty_buffer_is_refused(num_blocks):
    with pytest.raises(ValueError, match=f"num_blocks is {num_blocks}"):
        BlockAllocator(num_blocks)


def test_allocating_more_than_is_free_raises_and_takes_nothing():
    allocator = BlockAllocator(3)
    allocator.allocate(2)
    assert allocator.can_allocate(1) and not allocator.can_allocate(2)
    with pytest.raises(IntegrityError, match="2 blocks asked, 1 free"):
        allocator.allocate(2)
    assert allocator.num_free == 1
    allocator.check_integrity()


@pytest.mark.parametrize("block", [0, 2, 4, -1])
def test_freeing_what_is_not_in_use_raises_and_frees_nothing(block):
    allocator = BlockAllocator(3)
    allocator.allocate(1)
    with pytest.raises(IntegrityError, match=f"block {block} is not in use"):
        allocator.free([1, block])
    assert allocator.num_used == 1
    with pytest.raises(IntegrityError, match="not in use"):
        allocator.fork([1, block])
    allocator.check_integrity()


def test_freeing_one_reference_twice_in_a_call_raises_and_frees_nothing():
    allocator = BlockAllocator(3)
    allocator.allocate(2)
    with pytest.raises(IntegrityError, match="listed twice"):
        allocator.free([1, 1])
    assert allocator.num_used == 2
    allocator.check_integrity()


def test_relocating_fills_the_lowest_hole_and_keeps_the_references():
    allocator = BlockAllocator(5)
    allocator.allocate(4)
    allocator.fork([4])
    allocator.free([2])
    assert allocator.relocate_highest() == (4, 2)
    assert (allocator.references(2), allocator.references(4), allocator.highest_used) == (2, 0, 3)
    assert allocator.is_packed
    with pytest.raises(IntegrityError, match="packed already"):
        allocator.relocate_highest()


@pytest.mark.parametrize(
    "tamper",
    [
        lambda a: a._free.append(1),
        lambda a: a._free.pop(),
        lambda a: a._references.__setitem__(0, 1),
        lambda a: a._references.__setitem__(2, 0),
        lambda a: setattr(a, "_highest_used", 5),
    ],
)
def test_check_integrity_says_what_is_wrong(tamper):
    allocator = BlockAllocator(5)
    allocator.allocate(2)
    allocator.check_integrity()
    tamper(allocator)
    with pytest.raises(IntegrityError, match=r"\w+ \w+ \w+"):
        allocator.check_integrity()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from(("allocate", "free", "fork", "relocate")), st.integers(0, 9)), max_size=40))
def test_any_sequence_of_calls_agrees_with_a_plain_model(calls):
    allocator, model = BlockAllocator(10), dict.fromkeys(range(1, 11), 0)
    for name, number in calls:
        used = [block for block, count in model.items() if count]
        free = [block for block, count in model.items() if not count]
        if name == "allocate" and allocator.can_allocate(number % 4):
            taken = allocator.allocate(number % 4)
            assert taken == free[: number % 4]
            model.update(dict.fromkeys(taken, 1))
        elif name in ("free", "fork") and used:
            block = used[number % len(used)]
            getattr(allocator, name)([block])
            model[block] += 1 if name == "fork" else -1
        elif name == "relocate" and used and free and free[0] < used[-1]:
            assert allocator.relocate_highest() == (used[-1], free[0])
            model[free[0]], model[used[-1]] = model[used[-1]], 0
        allocator.check_integrity()
        assert [allocator.references(block) for block in model] == list(model.values())
        assert allocator.is_packed == all(model[b] for b in range(1, allocator.num_used + 1))
