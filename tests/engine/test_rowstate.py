"""Row state under random plans against a dictionary that does the same, field by field."""

from __future__ import annotations

import random

import torch

from flover_backend.engine.rowstate import NO_SLOT, RowState
from flover_backend.kernels.reorder import move_rows
from flover_backend.request import SamplingParams
from flover_backend.scheduler.plan import Join, Plan, TableUpdate

MAX_ROWS, MAX_LEN, BLOCK, VOCAB = 8, 64, 8, 30
CPU = torch.device("cpu")


def make_params(source: random.Random) -> SamplingParams:
    return SamplingParams(
        max_tokens=5,
        temperature=source.random(),
        top_k=source.randrange(9),
        min_p=source.random(),
        repetition_penalty=source.choice([1.0, 1.5]),
    )


def snapshot(state: RowState, row: int) -> tuple[object, ...]:
    slot = state.penalty_slots[row]
    return (
        int(state.last_token[row]),
        int(state.num_tokens[row]),
        state.lengths[row],
        int(state.seed[row]),
        int(state.top_k[row]),
        float(state.temperature[row]),
        float(state.min_p[row]),
        state.penalty_factors[:, row].tolist(),
        state.block_table[row].tolist(),
        state.params[row],
        None if slot == NO_SLOT else (state.penalties.counts[slot].tolist(), state.penalties.seen[slot].tolist()),
    )


def dead() -> tuple[object, ...]:
    return snapshot(RowState(1, MAX_LEN, BLOCK, VOCAB, CPU), 0)[:3]


def slots_in_use(state: RowState) -> list[int]:
    return [slot for slot in state.penalty_slots if slot != NO_SLOT]


def test_moves_carry_the_whole_row_and_leave_the_source_dead():
    for seed in range(20):
        source = random.Random(seed)
        state = RowState(MAX_ROWS, MAX_LEN, BLOCK, VOCAB, CPU)
        live: list[int] = []
        for step in range(30):
            before = {row: snapshot(state, row) for row in live}
            leaving = [row for row in live if source.random() < 0.3]
            staying = [row for row in live if row not in leaving]
            holes = [row for row in range(len(staying)) if row not in staying]
            tail = [row for row in staying if row >= len(staying)]
            moves = list(zip(tail, holes, strict=True))
            state.move(moves)
            state.apply(Plan(2 * step, 0, dead_rows=[r for r in leaving if r not in holes]))
            live = list(range(len(staying)))
            origin = {destination: origin for origin, destination in moves}
            for row in live:
                assert snapshot(state, row) == before[origin.get(row, row)]
            for row in range(len(live), MAX_ROWS):
                assert snapshot(state, row)[:3] == dead() == (0, 1, 1)
                assert not state.block_table[row].any()
            joins, updates = [], []
            for row in range(len(live), source.randrange(len(live), MAX_ROWS + 1)):
                joins.append(Join(row, [row], [1, 1, 2], make_params(source), source.getrandbits(64)))
                updates.append(TableUpdate(row, 0, (row * 2 + 1, row * 2 + 2)))
                live.append(row)
            state.apply(Plan(2 * step + 1, 0, joins=joins, table_updates=updates))
            assert len(set(slots_in_use(state))) == len(slots_in_use(state))
            held = state.penalties.counts.shape[0] - len(state.penalties._free)
            assert held == len(slots_in_use(state))


def test_a_join_counts_prompt_and_outputs():
    state = RowState(MAX_ROWS, MAX_LEN, BLOCK, VOCAB, CPU)
    params = SamplingParams(max_tokens=5, min_tokens=4, presence_penalty=1.0)
    state.apply(Plan(0, 3, joins=[Join(2, [5, 6], [7, 7], params, (1 << 64) - 1)]))
    slot = state.penalty_slots[2]
    assert state.penalties.counts[slot].nonzero().tolist() == [[7]]
    assert state.penalties.counts[slot, 7] == 2
    assert state.penalties.seen[slot].nonzero().squeeze(1).tolist() == [5, 6, 7]
    assert (int(state.seed[2]), int(state.last_token[2]), int(state.num_tokens[2])) == (-1, 7, 4)
    assert int(state.masked_until[2]) == 6


def test_advance_writes_the_token_and_the_length():
    state = RowState(MAX_ROWS, MAX_LEN, BLOCK, VOCAB, CPU)
    joins = [Join(row, [1] * (row + 1), [], SamplingParams(max_tokens=5), 0) for row in range(3)]
    state.apply(Plan(0, 3, joins=joins))
    state.advance([2, 0], torch.tensor([2, 0]), torch.tensor([20, 9]))
    assert state.last_token[:3].tolist() == [9, 1, 20]
    assert state.num_tokens[:3].tolist() == state.lengths[:3] == [2, 2, 4]


def test_table_updates_touch_only_their_entries():
    state = RowState(MAX_ROWS, MAX_LEN, BLOCK, VOCAB, CPU)
    state.apply(Plan(0, 2, table_updates=[TableUpdate(1, 2, (7, 8)), TableUpdate(0, 0, (3,))]))
    assert state.block_table[0].tolist() == [3] + [0] * 8
    assert state.block_table[1].tolist() == [0, 0, 7, 8] + [0] * 5


def test_sources_are_read_before_destinations_are_written():
    tensor = torch.arange(5)
    move_rows((tensor,), 0, [(4, 3), (3, 1)])
    assert tensor.tolist() == [0, 3, 2, 4, 4]
