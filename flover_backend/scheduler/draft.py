"""What the phases of one `Scheduler.plan` decide, before rows are placed; and how that becomes a `Plan`."""

from __future__ import annotations

from dataclasses import dataclass, field

from flover_backend.kv.tables import BlockMove, BlockTables
from flover_backend.scheduler.plan import Chunk, Fork, Join, Plan, TableUpdate
from flover_backend.scheduler.rows import RowMap
from flover_backend.scheduler.sequence import RequestGroup, Sequence


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a sequence's prompt to prefill."""

    sequence: Sequence
    start: int
    length: int
    samples: bool

    @property
    def ends_first_prefill(self) -> bool:
        """The end of a request's prompt, not of a recomputation; once a request, whatever its n."""
        return self.samples and self.sequence.index == 0 and not self.sequence.output_ids


@dataclass(slots=True)
class Draft:
    """Decisions of one iteration in terms of sequences. Rows and block ids are read only when it is assembled."""

    decodes: list[Sequence] = field(default_factory=list)
    grown: list[Sequence] = field(default_factory=list)
    """Decoding sequences that got a block at the end of their table."""
    pieces: list[Piece] = field(default_factory=list)
    joins: list[Sequence] = field(default_factory=list)
    forks: list[RequestGroup] = field(default_factory=list)
    block_moves: list[BlockMove] = field(default_factory=list)
    started_keys: list[int] = field(default_factory=list)
    """Requests admitted for the first time."""
    preemptions: int = 0

    @property
    def is_empty(self) -> bool:
        """Nothing to compute."""
        return not self.decodes and not self.pieces

    def sampled(self) -> list[Sequence]:
        """Sequences that get a token, in the order of `Plan.sampled_rows`; only once decodes are sorted by row."""
        return [
            *self.decodes,
            *(piece.sequence for piece in self.pieces if piece.samples),
            *(child for group in self.forks for child in group.children),
        ]


def assemble(draft: Draft, step: int, rows: RowMap, tables: BlockTables, block_size: int) -> Plan:
    """Place the joins, reorder, and write the draft down in rows and block ids. Sorts `draft.decodes` by row."""
    row_moves, dead_rows = rows.place(draft.joins)
    draft.decodes.sort(key=_row)
    return Plan(
        step=step,
        num_rows=rows.num_rows,
        block_moves=[(move.source, move.destination) for move in draft.block_moves],
        row_moves=row_moves,
        dead_rows=dead_rows,
        joins=[_join(sequence) for sequence in draft.joins],
        table_updates=_table_updates(draft, tables),
        chunks=[
            Chunk(_row(p.sequence), p.start, p.sequence.token_slice(p.start, p.length), p.samples) for p in draft.pieces
        ],
        decode_rows=[_row(sequence) for sequence in draft.decodes],
        idle_rows=rows.idle_rows(),
        block_copies=[pair for group in draft.forks for pair in _block_copies(group, tables, block_size)],
        forks=[Fork(_row(group.parent), tuple(_row(child) for child in group.children)) for group in draft.forks],
    )


def _row(sequence: Sequence) -> int:
    assert sequence.row is not None, f"{sequence!r} is scheduled without a row"
    return sequence.row


def _join(sequence: Sequence) -> Join:
    group = sequence.group
    return Join(_row(sequence), group.prompt_ids, list(sequence.output_ids), group.params, sequence.seed)


def _table_updates(draft: Draft, tables: BlockTables) -> list[TableUpdate]:
    updates = [TableUpdate(_row(s), 0, tuple(tables[s.uid])) for s in draft.joins]
    seated = {s.uid: _row(s) for s in [*draft.decodes, *(p.sequence for p in draft.pieces)]}
    for move in draft.block_moves:
        updates += [TableUpdate(seated[u], index, (move.destination,)) for u, index in move.holders if u in seated]
    for sequence in draft.grown:
        table = tables[sequence.uid]
        updates.append(TableUpdate(_row(sequence), len(table) - 1, (table[-1],)))
    return updates


def _block_copies(group: RequestGroup, tables: BlockTables, block_size: int) -> list[tuple[int, int]]:
    """The prompt's partly filled last block, from the parent to each child; none when the prompt fills its blocks."""
    shared, rest = divmod(len(group.prompt_ids), block_size)
    if not rest:
        return []
    return [(tables[group.parent.uid][shared], tables[child.uid][shared]) for child in group.children]
