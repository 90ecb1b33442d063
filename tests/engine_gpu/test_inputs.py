"""What is uploaded for a mixed iteration, against the CPU's packing of the same plan."""

from __future__ import annotations

import random

import pytest
import torch

from flover_backend.engine.gpu.inputs import SampleInputs, TokenInputs, Upload
from flover_backend.engine.packing import pack
from flover_backend.engine.rowstate import RowState
from flover_backend.kernels.gpu.prefill_attention import BLOCK_M
from flover_backend.kernels.prepare import FROM_STATE, prepare_reference
from flover_backend.kernels.row_layout import FINISH_AT, LAST_TOKEN, NUM_TOKENS, ROW_INTS
from flover_backend.request import SamplingParams
from flover_backend.scheduler.plan import Chunk, Fork, Join, Plan, TableUpdate

MAX_ROWS, MAX_LEN, BLOCK, VOCAB = 12, 512, 16, 50
CPU = torch.device("cpu")


def make(seed: int) -> tuple[Plan, RowState]:
    """Rows 0-4 decode (3 is dead), 5-7 have chunks, of which one ends its prompt and forks into 8 and 9."""
    source = random.Random(seed)
    state = RowState(MAX_ROWS, MAX_LEN, BLOCK, VOCAB, CPU)
    blocks = source.sample(range(1, 1000), MAX_ROWS * (MAX_LEN // BLOCK))
    lengths = [source.randint(1, MAX_LEN) for _ in range(5)] + [source.randint(2 * BLOCK_M, MAX_LEN), 77, 1]
    rows = [row for row in range(len(lengths)) if row != 3]
    prompts = {row: [source.randrange(VOCAB) for _ in range(lengths[row])] for row in rows}
    joins = [Join(row, prompts[row], [], SamplingParams(max_tokens=4), 0) for row in rows]
    updates = [TableUpdate(row, 0, tuple(blocks.pop() for _ in range(MAX_LEN // BLOCK))) for row in rows]
    state.apply(Plan(0, 0, joins=joins, table_updates=updates))
    start = source.randint(1, lengths[5] - BLOCK_M - 1)
    chunks = [
        Chunk(5, start, prompts[5][start : start + BLOCK_M + 1], False),
        Chunk(6, 0, prompts[6], True),
        Chunk(7, 0, prompts[7], True),
    ]
    return Plan(1, 10, chunks=chunks, decode_rows=[0, 1, 2, 4], idle_rows=[3], forks=[Fork(6, (8, 9))]), state


def device_state(state: RowState) -> torch.Tensor:
    ints = torch.zeros((MAX_ROWS + 1, ROW_INTS), dtype=torch.int32)
    ints[:, NUM_TOKENS] = 1
    ints[:MAX_ROWS, LAST_TOKEN], ints[:MAX_ROWS, NUM_TOKENS] = state.last_token, state.num_tokens
    ints[:MAX_ROWS, FINISH_AT] = torch.tensor([0 if params is None else 10_000 for params in state.params])
    return ints


@pytest.mark.parametrize("seed", range(5))
def test_tokens_and_samples_are_those_of_the_cpu(device: torch.device, seed: int) -> None:
    inputs = TokenInputs(1024, MAX_ROWS, MAX_ROWS, 2, device)
    samples = SampleInputs(MAX_ROWS + 1, MAX_ROWS, 2, device)
    for repeat in range(3):
        plan, state = make(10 * seed + repeat)
        packed = pack(plan, state)
        num_tokens = len(packed.batch.input_ids)
        inputs.fill(plan, num_tokens + 30)
        samples.fill(plan)
        given = inputs.given[:, : num_tokens + 30].cpu()
        table = torch.cat((state.block_table, torch.zeros_like(state.block_table[:1])))
        got = prepare_reference(given[0], given[1], given[2], device_state(state), table, BLOCK)
        assert got.input_ids[:num_tokens].tolist() == packed.batch.input_ids.tolist()
        assert got.positions[:num_tokens].tolist() == packed.batch.positions.tolist()
        assert got.slot_mapping[:num_tokens].tolist() == packed.batch.slot_mapping.tolist()
        assert got.decode_lens[:5].tolist() == [*packed.batch.kv_lens[:4], 0], "the dead row sees nothing"
        assert given[:, num_tokens:].unique(dim=1).tolist() == [[MAX_ROWS], [FROM_STATE], [0]]
        assert not got.slot_mapping[num_tokens:].any() and not got.decode_lens[5:].any()
        expected = torch.arange(num_tokens)[packed.sampled].tolist()
        count = len(plan.sampled_rows())
        assert count == 8 and samples.places.tolist() == expected + [0] * (MAX_ROWS + 1 - count)
        assert samples.rows.tolist() == plan.sampled_rows() + [MAX_ROWS] * (MAX_ROWS + 1 - count)


def test_items_cover_each_token_of_each_chunk_once(device: torch.device) -> None:
    plan, _ = make(3)
    inputs = TokenInputs(1024, MAX_ROWS, MAX_ROWS, 1, device)
    inputs.fill(plan, 512)
    count = int(inputs.num_items)
    assert count == 4 <= inputs.max_items_of(512) <= inputs.max_items
    covered = {}
    for first, queries, row, position in inputs.items[:count].tolist():
        assert 1 <= queries <= BLOCK_M
        covered |= {first + i: (row, position + i) for i in range(queries)}
    begin, expected = 5, {}
    for chunk in plan.chunks:
        expected |= {begin + i: (chunk.row, chunk.start + i) for i in range(len(chunk.token_ids))}
        begin += len(chunk.token_ids)
    assert covered == expected


def test_a_plan_without_chunks_has_no_items(device: torch.device) -> None:
    inputs = TokenInputs(64, 4, 4, 1, device)
    inputs.fill(Plan(0, 3, decode_rows=[0, 2]), 16)
    assert int(inputs.num_items) == 0
    assert inputs.given[0, :16].tolist() == [0, 2] + [4] * 14


def test_an_upload_waits_a_round_before_its_staging_is_written_again(device: torch.device) -> None:
    upload = Upload(4, 3, device)
    arrays = []
    for value in range(4):
        arrays.append(upload.array())
        upload.array()[:] = value
        assert upload.send().tolist() == [value] * 4
    assert arrays[0] is arrays[3] and len({id(array) for array in arrays[:3]}) == 3
    upload.array()[:] = 9
    assert upload.send(2).tolist() == [9, 9, 3, 3]
