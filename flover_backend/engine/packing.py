"""From a plan and row state to the tensors of a forward pass: packed tokens, nothing padded.

Order of the segments: decode rows, rows computed for nothing, chunks. Every length is known on the host already.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import torch

from flover_backend.engine.rowstate import RowState
from flover_backend.models.batch import ForwardBatch
from flover_backend.scheduler.plan import Plan


@dataclass(frozen=True, slots=True)
class Packed:
    """A batch, and which of its hidden states the sampled rows (`Plan.sampled_rows`) take their logits from."""

    batch: ForwardBatch
    sampled: torch.Tensor | slice
    """[N] int64 places among the batch's tokens, or the slice that they are."""


def pack(plan: Plan, state: RowState) -> Packed:
    """The forward pass of `plan`, after its row moves, deaths, joins and table updates."""
    single = plan.decode_rows + plan.idle_rows
    rows = single + [chunk.row for chunk in plan.chunks]
    query_lens = [1] * len(single) + [len(chunk.token_ids) for chunk in plan.chunks]
    kv_lens = [state.lengths[row] for row in single] + [chunk.start + len(chunk.token_ids) for chunk in plan.chunks]
    starts = [0, *accumulate(query_lens)]
    row_index = torch.tensor(rows, device=state.device)
    input_ids, positions = _tokens(plan, state, row_index[: len(single)])
    num_blocks = -(-max(kv_lens) // state.block_size)
    table = state.block_table[row_index, :num_blocks]
    batch = ForwardBatch(
        input_ids=input_ids,
        positions=positions,
        slot_mapping=_slots(table, query_lens, positions, state.block_size),
        cu_seqlens_q=torch.tensor(starts, dtype=torch.int32, device=state.device),
        seqlens_k=torch.tensor(kv_lens, dtype=torch.int32, device=state.device),
        block_table=table,
        num_decodes=len(single),
        query_lens=query_lens,
        kv_lens=kv_lens,
    )
    return Packed(batch, _sampled(plan, starts[len(single) :], state.device))


def _tokens(plan: Plan, state: RowState, single: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """input_ids [T] and positions [T]: from row state for rows of one token, from the plan for chunks."""
    input_ids, positions = state.last_token[single], state.num_tokens[single] - 1
    if not plan.chunks:
        return input_ids, positions
    ids = [token for chunk in plan.chunks for token in chunk.token_ids]
    places = [p for chunk in plan.chunks for p in range(chunk.start, chunk.start + len(chunk.token_ids))]
    chunks = torch.tensor([ids, places], device=state.device)
    return torch.cat((input_ids, chunks[0])), torch.cat((positions, chunks[1]))


def _slots(table: torch.Tensor, query_lens: list[int], positions: torch.Tensor, block_size: int) -> torch.Tensor:
    """slot_mapping [T] from block_table [S, max_blocks]."""
    segments = torch.arange(len(query_lens), device=table.device)
    if len(positions) > len(query_lens):
        segments = segments.repeat_interleave(torch.tensor(query_lens, device=table.device), output_size=len(positions))
    return table[segments, positions // block_size].long() * block_size + positions % block_size


def _sampled(plan: Plan, chunk_starts: list[int], device: torch.device) -> torch.Tensor | slice:
    last = {
        chunk.row: end - 1 for chunk, end in zip(plan.chunks, chunk_starts[1:], strict=True) if chunk.samples
    }  # places of the rows whose prompt ends
    if not last:
        return slice(len(plan.decode_rows))
    places = [*range(len(plan.decode_rows)), *last.values()]
    places += [last[fork.parent_row] for fork in plan.forks for _ in fork.child_rows]
    return torch.tensor(places, device=device)
