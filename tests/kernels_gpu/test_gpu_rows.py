"""Moves, deaths, joins and table entries on the device: against plain assignments on the host."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest
import torch

from flover_backend.kernels import row_layout as layout
from flover_backend.kernels.gpu import row_changes as packed
from flover_backend.kernels.gpu import rows as subject
from flover_backend.scheduler.plan import TableUpdate
from tests.kernels_gpu.compilation import compile_kernel

BLOCK_SIZE = 8


def random_tables(seed: int, max_rows: int, max_blocks: int, device: torch.device) -> subject.RowTables:
    """Every int random, lengths and numbers of biases and masks within their tables; the last row dead."""
    generator = torch.Generator().manual_seed(seed)

    def ints(*shape: int) -> torch.Tensor:
        return torch.randint(1, 1 << 31, shape, generator=generator, dtype=torch.int64).int()

    def below(limit: int) -> torch.Tensor:
        return torch.randint(0, limit, (max_rows + 1,), generator=generator, dtype=torch.int32)

    state = ints(max_rows + 1, layout.ROW_INTS)
    state[:, layout.NUM_TOKENS] = 1 + below((max_blocks - 1) * BLOCK_SIZE)
    rare = below(3) == 0
    state[:, layout.NUM_BIASES] = torch.where(rare, below(layout.MAX_BIASES + 1), 0)
    state[:, layout.NUM_MASKS] = torch.where(rare, below(layout.MAX_MASKS + 1), 0)
    state[-1] = torch.tensor(packed.DEAD_ROW)
    tables = (
        state, ints(max_rows + 1, max_blocks), ints(max_rows + 1, layout.MAX_BIASES),
        torch.randn((max_rows + 1, layout.MAX_BIASES), generator=generator), ints(max_rows + 1, layout.MAX_MASKS),
    )  # fmt: skip
    return subject.RowTables(*(table.to(device) for table in tables), BLOCK_SIZE)


def upload(changes: packed.Changes, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(changes.packed).to(device)


def apply(tables: subject.RowTables, changes: packed.Changes) -> None:
    device = tables.state.device
    subject.move_rows(tables, upload(changes, device), changes.num_moves)
    subject.apply_changes(tables, upload(changes, device), changes.num_programs)


@pytest.mark.parametrize("max_blocks", [3, 40, 1500])
def test_moved_rows_are_whole_and_their_sources_dead(device: torch.device, max_blocks: int) -> None:
    tables = random_tables(max_blocks, 12, max_blocks, device)
    before = random_tables(max_blocks, 12, max_blocks, torch.device("cpu"))
    pairs = [(11, 0), (10, 3), (9, 4), (7, 5)]
    apply(tables, packed.ChangeWriter().pack(moves=pairs))
    for source, destination in pairs:
        assert tables.state[destination].cpu().equal(before.state[source])
        assert tables.state[source].tolist() == list(packed.DEAD_ROW)
        assert int(tables.block_table[source, 0]) == 0
        blocks = -(-int(before.state[source, layout.NUM_TOKENS]) // BLOCK_SIZE)
        assert tables.block_table[destination, :blocks].cpu().equal(before.block_table[source, :blocks])
        biases, masks = (int(before.state[source, i]) for i in (layout.NUM_BIASES, layout.NUM_MASKS))
        assert tables.bias_ids[destination, :biases].cpu().equal(before.bias_ids[source, :biases])
        assert tables.bias_values[destination, :biases].cpu().equal(before.bias_values[source, :biases])
        assert tables.mask_ids[destination, :masks].cpu().equal(before.mask_ids[source, :masks])
    for row in {*range(13)} - {row for pair in pairs for row in pair}:
        assert tables.state[row].cpu().equal(before.state[row])
        assert tables.block_table[row].cpu().equal(before.block_table[row])
        assert tables.bias_values[row].cpu().equal(before.bias_values[row])


def test_moves_that_meet_are_refused() -> None:
    for pairs in ([(3, 1), (1, 0)], [(3, 1), (4, 1)], [(2, 2)]):
        with pytest.raises(AssertionError, match="not all different"):
            packed.ChangeWriter().pack(moves=pairs)


@pytest.mark.parametrize("seed", range(3))
def test_all_kinds_of_changes_at_once(device: torch.device, seed: int) -> None:
    source = random.Random(seed)
    max_rows, max_blocks = 400, 1100
    tables = random_tables(seed, max_rows, max_blocks, device)
    expected = random_tables(seed, max_rows, max_blocks, torch.device("cpu"))
    order = source.sample(range(max_rows), max_rows)
    dead, joining, growing = order[:5], order[3:9], order[9:309]
    joins = [(row, [source.randrange(-(1 << 31), 1 << 31) for _ in range(layout.ROW_INTS)]) for row in joining]
    lengths = [1, 2, 7, 1024, 1025, 1100]
    updates = [
        TableUpdate(row, 0, tuple(source.randrange(1, 1 << 20) for _ in range(n)))
        for row, n in zip(joining, lengths, strict=True)
    ]
    updates += [TableUpdate(row, source.randrange(max_blocks), (source.randrange(1, 99),)) for row in growing]
    values = np.array([source.gauss(0, 1) for _ in range(layout.MAX_BIASES)], np.float32)
    spans = [
        packed.Span(packed.BIAS_IDS, joining[0], 0, list(range(layout.MAX_BIASES))),
        packed.Span(packed.BIAS_VALUES, joining[0], 0, values.view(np.int32)),
        packed.Span(packed.MASK_IDS, joining[1], 2, [5, 6, 7]),
        packed.Span(packed.MASK_IDS, joining[2], 0, []),
    ]
    changes = packed.ChangeWriter().pack((), dead, joins, updates, spans)
    apply(tables, changes)
    for row in dead:
        expected.state[row] = torch.tensor(packed.DEAD_ROW)
        if row not in joining:
            expected.block_table[row, 0] = 0
    for row, ints in joins:
        expected.state[row] = torch.tensor(ints)
    for update in updates:
        expected.block_table[update.row, update.first : update.first + len(update.blocks)] = torch.tensor(update.blocks)
    expected.bias_ids[joining[0]] = torch.arange(layout.MAX_BIASES)
    expected.bias_values[joining[0]] = torch.from_numpy(values)
    expected.mask_ids[joining[1], 2:5] = torch.tensor([5, 6, 7])
    for name in ("state", "block_table", "bias_ids", "bias_values", "mask_ids"):
        assert getattr(tables, name).cpu().equal(getattr(expected, name)), name


def test_no_changes_need_no_launch(device: torch.device) -> None:
    changes = packed.ChangeWriter().pack()
    assert (changes.num_moves, changes.num_programs) == (0, 0)
    tables = subject.RowTables.allocate(3, 5, BLOCK_SIZE, device)
    apply(tables, changes)
    assert tables.state.tolist() == [list(packed.DEAD_ROW)] * 4


def test_256_table_updates_are_packed_quickly() -> None:
    updates = [TableUpdate(row, 7 + row % 3, (row + 1,)) for row in range(256)]
    writer, times = packed.ChangeWriter(), []
    for _ in range(50):
        started = time.perf_counter()
        writer.pack(table_updates=updates)
        times.append(time.perf_counter() - started)
    assert min(times) < 400e-6, "55 us on a desktop core"


@pytest.mark.parametrize("kernel", ["_move_kernel", "_apply_kernel"])
def test_compiles_without_spills(kernel: str) -> None:
    tables = ("changes", "state", "block_table", "bias_ids", "bias_values", "mask_ids")
    types = dict.fromkeys(tables, "*i32:16") | {"max_blocks": "i32"}
    constants = {"BLOCK": 1024} | ({"BLOCK_SIZE": 16} if kernel == "_move_kernel" else {"ENTRIES": 128})
    assert not compile_kernel(subject.__name__, kernel, types, constants, num_warps=4).spilled_bytes
