"""Row state on the device (kernels/row_layout.py): plans change it between iterations, sampled tokens in them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from flover_backend.engine.gpu.buckets import row_buckets
from flover_backend.engine.gpu.occupants import NO_SLOT, Occupants
from flover_backend.engine.gpu.row_values import masked_tokens, row_ints
from flover_backend.kernels.gpu.row_changes import BIAS_IDS, BIAS_VALUES, MASK_IDS, Changes, ChangeWriter, Span
from flover_backend.kernels.gpu.rows import RowTables, apply_changes, move_rows
from flover_backend.kernels.row_layout import SEEN_IN_PROMPT
from flover_backend.request import SamplingParams
from flover_backend.scheduler.plan import Join, Plan


class DeviceRows:
    """State of `max_rows` rows and of the rows that batches are padded with; the last one, `dead_row`, never lives.

    A plan is taken in three steps, so that blocks may move between them: `upload`, `move`, `apply`.
    """

    def __init__(
        self,
        max_rows: int,
        max_model_len: int,
        block_size: int,
        vocab_size: int,
        eos_token_ids: tuple[int, ...],
        device: torch.device,
    ) -> None:
        self.max_rows, self.vocab_size, self.device = max_rows, vocab_size, device
        self.dead_row = row_buckets(max_rows)[-1]
        self.num_rows = self.dead_row + 1
        self.tables = RowTables.allocate(self.dead_row, max_model_len // block_size + 2, block_size, device)
        self.counts = torch.zeros((max_rows, vocab_size), dtype=torch.int32, device=device)
        """[slots, vocab_size], see `SEEN_IN_PROMPT`"""
        self.occupants = Occupants(max_rows)
        self._eos_token_ids = eos_token_ids
        self._writer = ChangeWriter()
        self._changes: Changes | None = None
        self._uploaded: torch.Tensor | None = None

    @property
    def params(self) -> list[SamplingParams | None]:
        """By row; None: a dead row."""
        return self.occupants.params

    @property
    def block_table(self) -> torch.Tensor:
        """[num_rows, max_blocks] int32"""
        return self.tables.block_table

    @property
    def bytes_per_row(self) -> int:
        """What moving a row moves at most."""
        return self.tables.bytes_per_move

    def upload(self, plan: Plan) -> None:
        """Send everything that `plan` changes."""
        self._changes = None
        if not (plan.row_moves or plan.dead_rows or plan.joins or plan.table_updates):
            return
        self.occupants.move(plan.row_moves)
        for row in plan.dead_rows:
            self.occupants.leave(row)
        joins, spans = [], []
        for join in plan.joins:
            self.occupants.join(join.row, join.params)
            masks = masked_tokens(join.params, self._eos_token_ids)
            joins.append((join.row, row_ints(join, self.occupants.penalty_slots[join.row], masks)))
            spans += _rare_parameters(join, masks)
        self._changes = self._writer.pack(plan.row_moves, plan.dead_rows, joins, plan.table_updates, spans)
        self._uploaded = self._to_device(self._changes.packed)
        for join in plan.joins:
            if self.occupants.penalty_slots[join.row] != NO_SLOT:
                self._count(self.occupants.penalty_slots[join.row], join)

    def move(self) -> None:
        """Step 2 of the uploaded plan's order: rows that move."""
        if self._changes is not None and self._uploaded is not None:
            move_rows(self.tables, self._uploaded, self._changes.num_moves)

    def apply(self) -> None:
        """Steps 3 to 5: dead rows, joins, table updates."""
        if self._changes is not None and self._uploaded is not None:
            apply_changes(self.tables, self._uploaded, self._changes.num_programs)

    def _count(self, slot: int, join: Join) -> None:
        """Let a penalty slot count a prompt and an output."""
        counts = self.counts[slot]
        counts.zero_()
        prompt = self._to_device(np.asarray(join.prompt_ids, np.int64))
        counts.index_fill_(0, prompt, SEEN_IN_PROMPT)
        if join.output_ids:
            outputs = self._to_device(np.asarray(join.output_ids, np.int64))
            counts.index_add_(0, outputs, torch.ones_like(outputs, dtype=torch.int32))

    def _to_device(self, array: npt.NDArray[np.int32] | npt.NDArray[np.int64]) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        if self.device.type != "cuda":
            return tensor
        return tensor.pin_memory().to(self.device, non_blocking=True)


def _rare_parameters(join: Join, masks: list[int]) -> list[Span]:
    spans = []
    if join.params.logit_bias:
        values = np.fromiter(join.params.logit_bias.values(), np.float32).view(np.int32)
        spans = [Span(BIAS_IDS, join.row, 0, list(join.params.logit_bias)), Span(BIAS_VALUES, join.row, 0, values)]
    return [*spans, Span(MASK_IDS, join.row, 0, masks)] if masks else spans
