"""Everything that is remembered of a row between iterations, on the device.

Changed by a plan (moves, deaths, joins, table updates, in that order) and by sampled tokens, by nothing else.
The host keeps its own copy of what it can know without waiting for the device: parameters and lengths.
"""

from __future__ import annotations

import torch

from flover_backend.engine.penalties import PenaltyState, uses_penalties
from flover_backend.kernels.reorder import move_rows
from flover_backend.request import SamplingParams
from flover_backend.scheduler.plan import NULL_BLOCK, Join, Plan, TableUpdate

NO_SLOT = -1


class RowState:
    """The state of `max_rows` rows. A dead row has one token (0) at position 0 and only the null block.

    int64 [max_rows]: last_token; num_tokens, tokens of the sequence known (a decode feeds last_token at position
    num_tokens - 1); seed; top_k; masked_until, the num_tokens below which tokens that end a sequence are masked.
    float32 [max_rows]: temperature, top_p, min_p, repetition, presence, frequency.
    """

    def __init__(
        self, max_rows: int, max_model_len: int, block_size: int, vocab_size: int, device: torch.device
    ) -> None:
        self.block_size = block_size
        self.device = device
        self._ints = torch.zeros((5, max_rows), dtype=torch.int64, device=device)
        self.last_token, self.num_tokens, self.seed, self.top_k, self.masked_until = self._ints.unbind(0)
        self._floats = torch.zeros((6, max_rows), dtype=torch.float32, device=device)
        self.temperature, self.top_p, self.min_p = self._floats[:3].unbind(0)
        self.penalty_factors = self._floats[3:]
        """[3, max_rows]: repetition, presence, frequency."""
        self.block_table = torch.zeros((max_rows, max_model_len // block_size + 1), dtype=torch.int32, device=device)
        """[max_rows, max_blocks_per_row]; one entry more than needed by max_model_len, for a wasted iteration."""
        self.penalties = PenaltyState(vocab_size, device)
        self.params: list[SamplingParams | None] = [None] * max_rows
        self.lengths = [1] * max_rows
        """num_tokens on the host."""
        self.penalty_slots = [NO_SLOT] * max_rows
        self.version = 0
        """Changes whenever any row's occupant does."""
        self.num_tokens.fill_(1)

    @property
    def bytes_per_row(self) -> int:
        """What moving a row moves."""
        return self._ints[:, 0].nbytes + self._floats[:, 0].nbytes + self.block_table[0].nbytes

    def move(self, pairs: list[tuple[int, int]]) -> None:
        """Step 2 of a plan's order: (source, destination) rows; the sources are dead then."""
        if pairs:
            self._move(pairs)
            self.version += 1

    def apply(self, plan: Plan) -> None:
        """Steps 3 to 5 of a plan's order: dead rows, joins, table updates."""
        if plan.dead_rows:
            self._clear(plan.dead_rows)
        if plan.joins:
            self._join(plan.joins)
        if plan.table_updates:
            self._update_tables(plan.table_updates)
        self.version += bool(plan.dead_rows or plan.joins)

    def advance(self, rows: list[int], row_index: torch.Tensor, token_ids: torch.Tensor) -> None:
        """One new token for each of `rows` (no row twice); `row_index` is `rows` on the device, [N] int64."""
        self.last_token[row_index] = token_ids
        self.num_tokens[row_index] += 1
        for row in rows:
            self.lengths[row] += 1

    def _move(self, pairs: list[tuple[int, int]]) -> None:
        move_rows((self._ints, self._floats), 1, pairs)
        move_rows((self.block_table,), 0, pairs)
        moved = [(self.params[s], self.lengths[s], self.penalty_slots[s]) for s, _ in pairs]
        for (source, _), (_, destination) in zip(pairs, pairs, strict=True):
            self._release_slot(destination)
            self.penalty_slots[source] = NO_SLOT
        for (_, destination), (params, length, slot) in zip(pairs, moved, strict=True):
            self.params[destination], self.lengths[destination], self.penalty_slots[destination] = params, length, slot
        written = [destination for _, destination in pairs]
        self._clear([source for source, _ in pairs if source not in written])

    def _clear(self, rows: list[int]) -> None:
        if not rows:
            return
        index = torch.tensor(rows, device=self.device)
        self._ints[:, index] = 0
        self.num_tokens[index] = 1
        self.block_table[index] = NULL_BLOCK
        for row in rows:
            self._release_slot(row)
            self.params[row] = None
            self.lengths[row] = 1

    def _release_slot(self, row: int) -> None:
        if self.penalty_slots[row] != NO_SLOT:
            self.penalties.release(self.penalty_slots[row])
            self.penalty_slots[row] = NO_SLOT

    def _join(self, joins: list[Join]) -> None:
        index = torch.tensor([join.row for join in joins], device=self.device)
        self._ints[:, index] = torch.tensor([_ints(join) for join in joins], device=self.device).T
        self._floats[:, index] = torch.tensor([_floats(join.params) for join in joins], device=self.device).T
        for join in joins:
            self._release_slot(join.row)
            self.params[join.row] = join.params
            self.lengths[join.row] = len(join.prompt_ids) + len(join.output_ids)
            if uses_penalties(join.params):
                self.penalty_slots[join.row] = self.penalties.take(join.prompt_ids, join.output_ids)

    def _update_tables(self, updates: list[TableUpdate]) -> None:
        rows = [update.row for update in updates for _ in update.blocks]
        columns = [update.first + i for update in updates for i in range(len(update.blocks))]
        blocks = [block for update in updates for block in update.blocks]
        index = torch.tensor([rows, columns], device=self.device)
        self.block_table[index[0], index[1]] = torch.tensor(blocks, dtype=torch.int32, device=self.device)


def _ints(join: Join) -> tuple[int, int, int, int, int]:
    """A joining row's column of `_ints`; a seed of 64 bits wraps into int64."""
    tokens = join.output_ids or join.prompt_ids
    seed = join.seed - (1 << 64) if join.seed >= 1 << 63 else join.seed
    masked_until = len(join.prompt_ids) + join.params.min_tokens
    return tokens[-1], len(join.prompt_ids) + len(join.output_ids), seed, join.params.top_k, masked_until


def _floats(params: SamplingParams) -> tuple[float, ...]:
    return (
        params.temperature,
        params.top_p,
        params.min_p,
        params.repetition_penalty,
        params.presence_penalty,
        params.frequency_penalty,
    )
