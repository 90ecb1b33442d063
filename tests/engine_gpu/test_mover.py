from __future__ import annotations

import torch

from flover_backend.engine.gpu.mover import Mover
from flover_backend.engine.gpu.rows import DeviceRows
from flover_backend.kv.buffer import KVBuffer
from flover_backend.request import SamplingParams
from flover_backend.scheduler.plan import Join, Plan, TableUpdate


def make(device: torch.device) -> tuple[KVBuffer, DeviceRows, Mover]:
    kv = KVBuffer(2, 9, 8, 2, 6, torch.float16, device)
    for layer in (*kv.keys, *kv.values):
        layer.normal_()
    rows = DeviceRows(4, 64, 8, 30, (2,), device)
    return kv, rows, Mover(kv, rows, 4, 2)


def test_blocks_and_rows_move_and_are_counted(device):
    kv, rows, mover = make(device)
    rows.upload(Plan(0, 3, joins=[Join(2, [5, 6], [], SamplingParams(max_tokens=3), 1)],
                     table_updates=[TableUpdate(2, 0, (7,))]))  # fmt: skip
    rows.apply()
    row = rows.tables.state[2].clone()
    expected = [layer.cpu() for layer in (*kv.keys, *kv.values)]
    plan = Plan(1, 1, block_moves=[(9, 1), (7, 2)], row_moves=[(2, 0)], dead_rows=[2])
    rows.upload(plan)
    mover.move(plan)
    for layer, before in zip((*kv.keys, *kv.values), expected, strict=True):
        before[[1, 2]] = before[[9, 7]]
        assert torch.equal(layer.cpu(), before)
    assert torch.equal(rows.tables.state[0], row) and int(rows.block_table[0, 0]) == 7
    assert mover.bytes_moved == 2 * kv.bytes_per_block + rows.bytes_per_row
    if device.type == "cuda":
        torch.cuda.synchronize()
        assert 0 < mover.take_seconds() < 1
    assert mover.take_seconds() == 0.0
    mover.move(Plan(2, 1, decode_rows=[0]))
    assert mover.bytes_moved == 0


def test_copies_one_behind_the_other_keep_their_pairs(device):
    kv, _, mover = make(device)
    first = kv.keys[0][1].clone()
    mover.copy_blocks([])
    for block in range(1, 9):
        mover.copy_blocks([(block, block + 1)])
    assert all(torch.equal(kv.keys[0][block], first) for block in range(1, 10))
