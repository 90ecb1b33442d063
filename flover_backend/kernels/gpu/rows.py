"""Changes of the row state between iterations, all from one uploaded tensor: moves, deaths, joins, table entries.

Knows rows, tables and packed ints; what they are for is not its business. On the device a dead row is told from its
ints, and entry 0 of its block-table row is the null block; a row's other entries, biases and masks are whatever they
were: nothing may read entries beyond a row's length, or more biases and masks than it says it has.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from flover_backend.kernels import row_layout as layout
from flover_backend.kernels.gpu import row_changes as packed
from flover_backend.kernels.gpu import row_fields as f

_COPY_BLOCK = 1024

_AT_MOVES, _AT_DEAD, _AT_JOINS = tl.constexpr(packed.MOVES), tl.constexpr(packed.DEAD), tl.constexpr(packed.JOINS)
_AT_ENTRIES, _AT_SPANS, _AT_DATA = tl.constexpr(packed.ENTRIES), tl.constexpr(packed.SPANS), tl.constexpr(packed.DATA)
_WIDTH_JOIN, _WIDTH_SPAN = tl.constexpr(packed.JOIN_INTS), tl.constexpr(packed.SPAN_INTS)
_TO_BIAS_IDS, _TO_BIAS_VALUES, _TO_MASK_IDS = (
    tl.constexpr(i) for i in (packed.BIAS_IDS, packed.BIAS_VALUES, packed.MASK_IDS)
)


@dataclass(frozen=True, slots=True)
class RowTables:
    """The row state on the device; shapes as in `row_layout`."""

    state: torch.Tensor
    block_table: torch.Tensor
    bias_ids: torch.Tensor
    bias_values: torch.Tensor
    mask_ids: torch.Tensor
    block_size: int

    @classmethod
    def allocate(cls, max_rows: int, max_blocks: int, block_size: int, device: torch.device) -> RowTables:
        """`max_rows` + 1 dead rows."""

        def zeros(width: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
            return torch.zeros((max_rows + 1, width), dtype=dtype, device=device)

        return cls(
            torch.tensor(packed.DEAD_ROW, dtype=torch.int32, device=device).repeat(max_rows + 1, 1),
            zeros(max_blocks),
            zeros(layout.MAX_BIASES),
            zeros(layout.MAX_BIASES, torch.float32),
            zeros(layout.MAX_MASKS),
            block_size,
        )

    @property
    def bytes_per_move(self) -> int:
        """Of a row with a full block table and no biases."""
        return self.state[0].nbytes + self.block_table[0].nbytes


def move_rows(tables: RowTables, changes: torch.Tensor, num_moves: int) -> None:
    """Copy the rows that `changes` (a packed tensor on the device) moves; their sources are dead rows then.

    Copies ceil(NUM_TOKENS / block_size) + 1 entries of the block table, and as many biases and masks as a row has.
    """
    if num_moves:
        _move_kernel[(num_moves,)](
            changes,
            tables.state,
            tables.block_table,
            tables.bias_ids,
            tables.bias_values,
            tables.mask_ids,
            tables.block_table.stride(0),
            BLOCK_SIZE=tables.block_size,
            BLOCK=_COPY_BLOCK,
            num_warps=4,
        )


def apply_changes(tables: RowTables, changes: torch.Tensor, num_programs: int) -> None:
    """Dead rows, joins, table entries and spans of `changes` (a packed tensor on the device), in one launch."""
    if num_programs:
        _apply_kernel[(num_programs,)](
            changes,
            tables.state,
            tables.block_table,
            tables.bias_ids,
            tables.bias_values.view(torch.int32),
            tables.mask_ids,
            tables.block_table.stride(0),
            ENTRIES=packed.ENTRIES_PER_PROGRAM,
            BLOCK=_COPY_BLOCK,
            num_warps=4,
        )


@triton.jit
def _copy(table, source, destination, width, count, BLOCK: tl.constexpr):
    """The first `count` entries of a table's row, to another row of it."""
    for start in range(0, count, BLOCK):
        index = start + tl.arange(0, BLOCK)
        inside = index < count
        entries = tl.load(table + source.to(tl.int64) * width + index, mask=inside)
        tl.store(table + destination.to(tl.int64) * width + index, entries, mask=inside)


@triton.jit(do_not_specialize=["max_blocks"])
def _move_kernel(
    changes,
    state,
    block_table,
    bias_ids,
    bias_values,
    mask_ids,
    max_blocks,
    BLOCK_SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    pair = changes + tl.load(changes + _AT_MOVES + 1) + tl.program_id(0) * 2
    source = tl.load(pair)
    destination = tl.load(pair + 1)
    from_row = state + source * f.ROW_INTS
    num_tokens = tl.load(from_row + f.NUM_TOKENS)
    num_biases = tl.load(from_row + f.NUM_BIASES)
    num_masks = tl.load(from_row + f.NUM_MASKS)
    fields = tl.arange(0, f.ROW_INTS)
    tl.store(state + destination * f.ROW_INTS + fields, tl.load(from_row + fields))
    num_blocks = tl.minimum(tl.cdiv(num_tokens, BLOCK_SIZE) + 1, max_blocks)
    _copy(block_table, source, destination, max_blocks, num_blocks, BLOCK)
    _copy(bias_ids, source, destination, f.MAX_BIASES, num_biases, BLOCK)
    _copy(bias_values, source, destination, f.MAX_BIASES, num_biases, BLOCK)
    _copy(mask_ids, source, destination, f.MAX_MASKS, num_masks, BLOCK)
    tl.debug_barrier()  # every thread has read the source
    tl.store(from_row + fields, f.dead_row(fields))
    tl.store(block_table + source.to(tl.int64) * max_blocks, 0)


@triton.jit
def _write_span(span, data, block_table, bias_ids, bias_values, mask_ids, max_blocks, BLOCK: tl.constexpr):
    kind = tl.load(span)
    row = tl.load(span + 1).to(tl.int64)
    first = tl.load(span + 2)
    count = tl.load(span + 3)
    data += tl.load(span + 4)
    table = block_table + row * max_blocks
    if kind == _TO_BIAS_IDS:
        table = bias_ids + row * f.MAX_BIASES
    elif kind == _TO_BIAS_VALUES:
        table = bias_values + row * f.MAX_BIASES
    elif kind == _TO_MASK_IDS:
        table = mask_ids + row * f.MAX_MASKS
    for start in range(0, count, BLOCK):
        index = start + tl.arange(0, BLOCK)
        inside = index < count
        tl.store(table + first + index, tl.load(data + index, mask=inside), mask=inside)


@triton.jit(do_not_specialize=["max_blocks"])
def _apply_kernel(
    changes,
    state,
    block_table,
    bias_ids,
    bias_values,
    mask_ids,
    max_blocks,
    ENTRIES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    num_dead = tl.load(changes + _AT_DEAD)
    num_joins = tl.load(changes + _AT_JOINS)
    num_entries = tl.load(changes + _AT_ENTRIES)
    first_entries = num_dead + num_joins
    first_span = first_entries + tl.cdiv(num_entries, ENTRIES)
    program = tl.program_id(0)
    fields = tl.arange(0, f.ROW_INTS)
    if program < num_dead:
        row = tl.load(changes + tl.load(changes + _AT_DEAD + 1) + program)
        tl.store(state + row * f.ROW_INTS + fields, f.dead_row(fields))
        tl.store(block_table + row.to(tl.int64) * max_blocks, 0)
    elif program < first_entries:
        join = changes + tl.load(changes + _AT_JOINS + 1) + (program - num_dead) * _WIDTH_JOIN
        tl.store(state + tl.load(join) * f.ROW_INTS + fields, tl.load(join + 1 + fields))
    elif program < first_span:
        index = (program - first_entries) * ENTRIES + tl.arange(0, ENTRIES)
        inside = index < num_entries
        entries = changes + tl.load(changes + _AT_ENTRIES + 1) + index
        row = tl.load(entries, mask=inside, other=0).to(tl.int64)
        place = tl.load(entries + num_entries, mask=inside, other=0)
        block = tl.load(entries + 2 * num_entries, mask=inside, other=0)
        tl.store(block_table + row * max_blocks + place, block, mask=inside)
    else:
        spans = changes + tl.load(changes + _AT_SPANS + 1)
        data = changes + tl.load(changes + _AT_DATA + 1)
        span = spans + (program - first_span) * _WIDTH_SPAN
        _write_span(span, data, block_table, bias_ids, bias_values, mask_ids, max_blocks, BLOCK)
