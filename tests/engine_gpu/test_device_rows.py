"""Row state on the device against that of the CPU, under the plans of a scheduler with random requests."""

from __future__ import annotations

import random
import struct

import pytest
import torch

from flover_backend.engine.gpu.occupants import NO_SLOT
from flover_backend.engine.gpu.rows import DeviceRows
from flover_backend.engine.rowstate import RowState
from flover_backend.kernels import row_layout as layout
from flover_backend.request import Request, SamplingParams
from flover_backend.scheduler.config import SchedulerConfig
from flover_backend.scheduler.plan import Plan, StepResult
from flover_backend.scheduler.scheduler import Scheduler

MAX_ROWS, MAX_LEN, BLOCK, VOCAB, EOS = 5, 64, 8, 30, 2
CPU = torch.device("cpu")


def random_request(key: int, source: random.Random) -> Request:
    params = SamplingParams(
        max_tokens=source.choice([1, 9, 24]),
        temperature=source.choice([0.0, 0.7]),
        top_k=source.randrange(9),
        top_p=source.choice([1.0, 0.9]),
        min_p=source.choice([0.0, 0.1]),
        seed=source.getrandbits(64),
        repetition_penalty=source.choice([1.0, 1.5]),
        min_tokens=source.choice([0, 1]),
        logit_bias=source.choice([{}, {3: 1.5, 9: -2.0}]),
        stop_token_ids=source.choice([(), (4, 5)]),
        ignore_eos=source.random() < 0.5,
        n=source.choice([1, 1, 2]),
    )
    prompt = [source.randrange(VOCAB) for _ in range(source.choice([1, 8, 13, 30]))]
    return Request(key=key, prompt_ids=prompt, params=params, arrival_time=0.0)


class Both:
    """The CPU's row state and the device's, which take the same plans."""

    def __init__(self, device: torch.device) -> None:
        self.expected = RowState(MAX_ROWS, MAX_LEN, BLOCK, VOCAB, CPU)
        self.rows = DeviceRows(MAX_ROWS, MAX_LEN, BLOCK, VOCAB, (EOS,), device)
        self.seen = dict.fromkeys(("row_moves", "joins", "dead_rows", "forks"), 0)

    def take(self, plan: Plan) -> None:
        for name in self.seen:
            self.seen[name] += len(getattr(plan, name))
        self.expected.move(plan.row_moves)
        self.expected.apply(plan)
        self.rows.upload(plan)
        self.rows.move()
        self.rows.apply()

    def advance(self, rows: list[int], tokens: list[int]) -> None:
        """By hand on the device: the kernel that does it is tested elsewhere."""
        self.expected.advance(rows, torch.tensor(rows, dtype=torch.int64), torch.tensor(tokens, dtype=torch.int64))
        state = self.rows.tables.state
        index = torch.tensor(rows, dtype=torch.int64, device=state.device)
        state[index, layout.LAST_TOKEN] = torch.tensor(tokens, dtype=torch.int32, device=state.device)
        state[index, layout.NUM_TOKENS] += 1

    def check(self, plan: Plan, held: dict[int, list[int]]) -> None:
        state, table = self.rows.tables.state.tolist(), self.rows.block_table.tolist()
        assert self.rows.params == self.expected.params
        for row in range(self.rows.num_rows):
            params = self.rows.params[row] if row < MAX_ROWS else None
            if params is None:
                assert (state[row][layout.NUM_TOKENS], state[row][layout.FINISH_AT], table[row][0]) == (1, 0, 0)
            else:
                self._check_live(row, state[row], params)
                assert table[row][: len(held[row])] == held[row]
                assert self.expected.block_table[row, : len(held[row])].tolist() == held[row]
        for join in plan.joins:
            self._check_counts(join.row)

    def _check_live(self, row: int, ints: list[int], params: SamplingParams) -> None:
        expected = self.expected
        seed = struct.unpack("<q", struct.pack("<2i", ints[layout.SEED_LOW], ints[layout.SEED_HIGH]))[0]
        floats = struct.unpack("<6f", struct.pack("<6i", *ints[layout.TEMPERATURE : layout.FREQUENCY + 1]))
        columns = (expected.temperature, expected.top_p, expected.min_p, *expected.penalty_factors)
        facts = (expected.last_token, expected.num_tokens, expected.top_k)
        places = (layout.LAST_TOKEN, layout.NUM_TOKENS, layout.TOP_K)
        assert [ints[place] for place in places] == [int(fact[row]) for fact in facts]
        assert seed == int(expected.seed[row])
        assert list(floats) == [float(column[row]) for column in columns]
        tables = self.rows.tables
        biases = ints[layout.NUM_BIASES]
        ids, values = tables.bias_ids[row, :biases].tolist(), tables.bias_values[row, :biases].tolist()
        assert dict(zip(ids, values, strict=True)) == params.logit_bias
        ends = [*params.stop_token_ids, *([] if params.ignore_eos else [EOS])] if params.min_tokens else []
        assert tables.mask_ids[row, : ints[layout.NUM_MASKS]].tolist() == ends
        assert ints[layout.PENALTY_SLOT] == self.rows.occupants.penalty_slots[row]
        assert (ints[layout.PENALTY_SLOT] == NO_SLOT) == (expected.penalty_slots[row] == NO_SLOT)

    def _check_counts(self, row: int) -> None:
        slot, expected_slot = self.rows.occupants.penalty_slots[row], self.expected.penalty_slots[row]
        if slot == NO_SLOT:
            return
        counts, penalties = self.rows.counts[slot].cpu(), self.expected.penalties
        assert ((counts & ~layout.SEEN_IN_PROMPT) == penalties.counts[expected_slot]).all()
        assert torch.equal(counts != 0, penalties.seen[expected_slot].bool())


@pytest.mark.parametrize("reorder", ["none", "rows", "compact"])
def test_a_schedulers_plans_give_the_same_rows(device: torch.device, reorder: str) -> None:
    config = SchedulerConfig(
        max_rows=MAX_ROWS, max_model_len=MAX_LEN, block_size=BLOCK, num_blocks=11, reorder=reorder,
        prefill_token_budget=16, pipeline_depth=0, eos_token_ids=(EOS,), max_block_moves=2, clock=lambda: 0.0,
    )  # fmt: skip
    source, scheduler, both = random.Random(1), Scheduler(config), Both(device)
    for step in range(120):
        if step % 3 == 0 and scheduler.num_waiting_requests < 3:
            scheduler.add(random_request(step, source))
        plan = scheduler.plan()
        seated = enumerate(scheduler._rows._slots)
        held = {row: list(scheduler._tables[sequence.uid]) for row, sequence in seated if sequence is not None}
        tokens = [source.randrange(VOCAB) for _ in plan.sampled_rows()]
        if not plan.is_empty:
            both.take(plan)
            both.check(plan, held)
            both.advance(plan.sampled_rows(), tokens)
        scheduler.commit(StepResult(plan.step, tokens))
    assert all(count for name, count in both.seen.items() if reorder != "none" or name != "row_moves"), both.seen
    assert scheduler.counters.preemptions


def test_a_plan_that_changes_nothing_uploads_nothing(device: torch.device) -> None:
    rows = DeviceRows(2, MAX_LEN, BLOCK, VOCAB, (EOS,), device)
    before = rows.tables.state.clone()
    rows.upload(Plan(0, 1, decode_rows=[0]))
    rows.move()
    rows.apply()
    assert torch.equal(rows.tables.state, before) and rows.dead_row == 2 and rows.num_rows == 3
