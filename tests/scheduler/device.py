"""A device that knows nothing but the plans it is given, and checks each of them.

Its KV buffer holds marks instead of keys and values: slot (block, offset) holds a digest of all tokens up to and
including the one written there, as real keys and values depend on all tokens before them. At each forward every
computing row must find, through its own block table, exactly the marks of its own tokens 0 .. p-1 in order.
The sampled token is a function of (seed, number of the token, mark at the last position), so `lone_run` says without
any scheduling what a request must produce.
"""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass, field

from flover_backend.request import FinishReason, Request, SamplingParams
from flover_backend.scheduler.config import ReorderMode
from flover_backend.scheduler.plan import NULL_BLOCK, Join, Plan, StepResult, TokenLogprobs
from flover_backend.scheduler.seeds import sequence_seed

VOCAB_SIZE = 32
EOS = 1
STALE = -1


def mix(*values: int) -> int:
    """64 bits that depend on all values and their order."""
    return int.from_bytes(hashlib.blake2b(repr(values).encode(), digest_size=8).digest(), "little")


def extend(marks: list[int], tokens: list[int]) -> list[int]:
    """The marks of `tokens` that follow a prefix with `marks`."""
    last, added = (marks[-1] if marks else 0), []
    for token in tokens:
        last = mix(last, token)
        added.append(last)
    return added


def sample(seed: int, number: int, mark: int) -> int:
    """Output token `number` (from 0) of a sequence whose last mark is `mark`."""
    return mix(seed, number, mark) % VOCAB_SIZE


def lone_run(request: Request, index: int, max_model_len: int, eos: tuple[int, ...]) -> tuple[list[int], FinishReason]:
    """Tokens and end of one sequence of a request that runs by itself."""
    params, seed = request.params, sequence_seed(request.params.seed, index)
    marks, outputs = extend([], request.prompt_ids), list[int]()
    while True:
        outputs.append(sample(seed, len(outputs), marks[-1]))
        ends = outputs[-1] in params.stop_token_ids or (outputs[-1] in eos and not params.ignore_eos)
        if ends and len(outputs) >= params.min_tokens:
            return outputs, FinishReason.STOP
        if len(outputs) >= params.max_tokens or len(request.prompt_ids) + len(outputs) >= max_model_len:
            return outputs, FinishReason.LENGTH
        marks += extend(marks[-1:], outputs[-1:])


@dataclass
class Row:
    """State of one row. `position` is where the next token goes; `last_token` is what a decode step feeds in."""

    table: list[int]
    live: bool = False
    seed: int = 0
    params: SamplingParams | None = None
    tokens: list[int] = field(default_factory=list)
    """Prompt and outputs before a preemption: what chunks must bring, in order."""
    num_prompt: int = 0
    position: int = 0
    num_sampled: int = 0
    last_token: int | None = None
    marks: list[int] = field(default_factory=list)
    """Marks of the tokens 0 .. position-1, kept apart from the buffer to check it."""


class SimulatedDevice:
    """A `Runner` over marks. Any plan that breaks plan.py's contract is an AssertionError with the step's number."""

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        max_rows: int,
        max_model_len: int,
        reorder: ReorderMode,
        pipeline_depth: int = 0,
    ) -> None:
        self.pipeline_depth = pipeline_depth
        self.block_size = block_size
        self.reorder = reorder
        self.max_blocks = -(-max_model_len // block_size)
        self.blocks = [[STALE] * block_size for _ in range(num_blocks + 1)]
        self.rows = [Row(self._empty_table()) for _ in range(max_rows)]
        self.next_step = 0
        self.results: deque[StepResult] = deque()

    def run(self, plan: Plan) -> StepResult | None:
        """Apply `plan`; the result of plan `plan.step - pipeline_depth`."""
        assert plan.step == self.next_step, f"step {plan.step} given, {self.next_step} is due"
        self.next_step += 1
        if plan.is_empty:
            assert plan == Plan(plan.step, 0), f"empty plan {plan} changes something"
        self._prepare(plan)
        self._check_batch(plan)
        token_ids = [self._decode(row) for row in plan.decode_rows]
        token_ids += [t for t in (self._chunk(c.row, c.start, c.token_ids, c.samples) for c in plan.chunks) if t >= 0]
        for row in plan.idle_rows:
            self._write(row, self.rows[row].position, [STALE])
        self._copy_blocks(plan.block_copies)
        for fork in plan.forks:
            token_ids += [self._fork(fork.parent_row, child) for child in fork.child_rows]
        assert len(token_ids) == len(plan.sampled_rows()), f"step {plan.step} samples {len(token_ids)} tokens"
        self.results.append(StepResult(plan.step, token_ids, self._logprobs(plan, token_ids)))
        return self.results.popleft() if len(self.results) > self.pipeline_depth else None

    def _prepare(self, plan: Plan) -> None:
        self._copy_blocks(plan.block_moves)
        for source, destination in plan.row_moves:
            assert self.rows[source].live and destination not in plan.dead_rows, f"move {source} -> {destination}"
            self.rows[destination], self.rows[source] = self.rows[source], Row(self._empty_table())
        for row in plan.dead_rows:
            self.rows[row] = Row(self._empty_table())
        for join in plan.joins:
            self._join(join)
        for update in plan.table_updates:
            assert self.rows[update.row].live, f"step {plan.step} writes the table of dead row {update.row}"
            end = update.first + len(update.blocks)
            assert end <= self.max_blocks and NULL_BLOCK not in update.blocks
            self.rows[update.row].table[update.first : end] = update.blocks

    def _join(self, join: Join) -> None:
        assert not self.rows[join.row].live, f"row {join.row} is taken by a join while it is live"
        tokens = [*join.prompt_ids, *join.output_ids]
        self.rows[join.row] = Row(
            self._empty_table(), True, join.seed, join.params, tokens, len(join.prompt_ids), 0, len(join.output_ids)
        )

    def _check_batch(self, plan: Plan) -> None:
        live = [number for number, row in enumerate(self.rows) if row.live]
        computing = sorted([*plan.sampled_rows(), *(chunk.row for chunk in plan.chunks if not chunk.samples)])
        assert plan.is_empty or computing == live, f"step {plan.step}: live rows {live}, computing {computing}"
        assert plan.decode_rows == sorted(plan.decode_rows)
        if plan.is_empty:
            return
        assert sorted([*live, *plan.idle_rows]) == list(range(plan.num_rows)), f"step {plan.step}: {plan}, live {live}"
        assert not plan.idle_rows or (self.reorder == "none" and plan.num_rows - 1 in live)
        for number, row in enumerate(self.rows):
            assert row.live or (row.table == self._empty_table() and row.position == 0), f"dead row {number} is not 0"

    def _decode(self, number: int) -> int:
        row = self.rows[number]
        assert row.last_token is not None, f"row {number} decodes without a first token"
        self._forward(number, [row.last_token])
        return self._sample(row)

    def _chunk(self, number: int, start: int, token_ids: list[int], samples: bool) -> int:
        row = self.rows[number]
        assert token_ids and row.last_token is None and start == row.position, f"row {number}: chunk at {start}"
        assert token_ids == row.tokens[start : start + len(token_ids)], f"row {number} prefills another's tokens"
        assert samples == (start + len(token_ids) == len(row.tokens))
        self._forward(number, token_ids)
        return self._sample(row) if samples else -1

    def _fork(self, parent_row: int, child_row: int) -> int:
        parent, child = self.rows[parent_row], self.rows[child_row]
        assert child.live and child.tokens == parent.tokens and child.position == 0
        child.position, child.marks = parent.position, list(parent.marks)
        self._check_marks(child_row)
        return self._sample(child)

    def _forward(self, number: int, token_ids: list[int]) -> None:
        row = self.rows[number]
        added = extend(row.marks, token_ids)
        self._check_marks(number)
        self._write(number, row.position, added)
        row.marks += added
        row.position += len(token_ids)
        self._check_marks(number)

    def _sample(self, row: Row) -> int:
        row.last_token = sample(row.seed, row.num_sampled, row.marks[-1])
        row.num_sampled += 1
        return row.last_token

    def _check_marks(self, number: int) -> None:
        row = self.rows[number]
        found = []
        for position in range(row.position):
            block = row.table[position // self.block_size]
            assert block != NULL_BLOCK, f"row {number} has no block for position {position}"
            found.append(self.blocks[block][position % self.block_size])
        assert found == row.marks, f"row {number}'s {row.position} positions do not hold its own tokens: {row.table}"

    def _write(self, number: int, start: int, marks: list[int]) -> None:
        row = self.rows[number]
        for position, mark in enumerate(marks, start):
            block = row.table[position // self.block_size]
            assert (block != NULL_BLOCK) == row.live, f"row {number} (live: {row.live}) writes to block {block}"
            self.blocks[block][position % self.block_size] = mark

    def _copy_blocks(self, pairs: list[tuple[int, int]]) -> None:
        assert len({destination for _, destination in pairs}) == len(pairs)
        contents = [list(self.blocks[source]) for source, _ in pairs]
        for (_, destination), content in zip(pairs, contents, strict=True):
            assert destination != NULL_BLOCK
            self.blocks[destination] = content

    def _logprobs(self, plan: Plan, token_ids: list[int]) -> dict[int, TokenLogprobs]:
        """Of rows that ask for them; the logprob is minus the token id, to know it again."""
        asks = [self.rows[row].params for row in plan.sampled_rows()]
        return {
            entry: TokenLogprobs(-float(token), 1, [])
            for entry, (params, token) in enumerate(zip(asks, token_ids, strict=True))
            if params is not None and params.logprobs >= 0
        }

    def _empty_table(self) -> list[int]:
        return [NULL_BLOCK] * self.max_blocks
