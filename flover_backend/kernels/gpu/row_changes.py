"""A plan's changes of row state, packed on the host into one int32 array for one upload. Knows rows and ints only.

kernels/gpu/rows.py applies them; the layout is described at `ChangeWriter`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

import numpy as np
import numpy.typing as npt

from flover_backend.kernels import row_layout as layout

BLOCK_TABLE, BIAS_IDS, BIAS_VALUES, MASK_IDS = range(4)
"""The tables that a `Span` may go to."""

HEADER_INTS = 16
MOVES, DEAD, JOINS, ENTRIES, SPANS, DATA = range(0, 12, 2)
"""Places in the header: how many there are, and at the next place where they begin."""
JOIN_INTS = 1 + layout.ROW_INTS
SPAN_INTS = 5
ENTRIES_PER_PROGRAM = 128


class TableUpdate(Protocol):
    """Entries `first .. first + len(blocks) - 1` of a row's block-table row."""

    @property
    def row(self) -> int:
        """The row."""
        ...

    @property
    def first(self) -> int:
        """Place of the first entry."""
        ...

    @property
    def blocks(self) -> tuple[int, ...]:
        """At least one entry."""
        ...


@dataclass(frozen=True, slots=True)
class Span:
    """Ints (floats by their bits) for `first ..` of a row of one of the tables."""

    table: int
    row: int
    first: int
    ints: Sequence[int] | npt.NDArray[np.int32]


def _dead_row() -> tuple[int, ...]:
    ints = [0] * layout.ROW_INTS
    ints[layout.NUM_TOKENS], ints[layout.PENALTY_SLOT] = 1, -1
    ints[layout.TOP_P] = ints[layout.REPETITION] = 0x3F800000
    return tuple(ints)


DEAD_ROW = _dead_row()


@dataclass(frozen=True, slots=True)
class Changes:
    """`packed` [n] int32 on the host, for one upload; what `move_rows` and `apply_changes` need to know of it."""

    packed: npt.NDArray[np.int32]
    num_moves: int
    num_programs: int
    """Of `apply_changes`; 0: there is nothing to apply."""


class ChangeWriter:
    """Packs the changes of a plan. Keeps nothing between plans.

    Layout of `packed`: a header of 16 ints, for each kind its number and where it begins; moves (source, destination);
    dead rows; joins (row, ROW_INTS ints); table entries, as rows, then places, then blocks; spans
    (table, row, first, count, where its ints begin among the data); the data.
    """

    def pack(
        self,
        moves: Sequence[tuple[int, int]] = (),
        dead_rows: Sequence[int] = (),
        joins: Sequence[tuple[int, Sequence[int] | npt.NDArray[np.int32]]] = (),
        table_updates: Sequence[TableUpdate] = (),
        spans: Sequence[Span] = (),
    ) -> Changes:
        """Order of effects: moves, deaths, joins, updates and spans. A row that joins need not die before, so that
        deaths and joins never meet; updates must not contradict each other."""
        check_moves(moves)
        joined = {row for row, _ in joins}
        dead = [row for row in dead_rows if row not in joined]
        entries = [update for update in table_updates if len(update.blocks) == 1]
        long = list(spans)
        if len(entries) < len(table_updates):
            long += [Span(BLOCK_TABLE, u.row, u.first, u.blocks) for u in table_updates if len(u.blocks) > 1]
        sections: tuple[tuple[int, Sequence[int] | npt.NDArray[np.int32]], ...] = (
            (len(moves), [i for pair in moves for i in pair]),
            (len(dead), dead),
            (len(joins), _joins(joins)),
            (
                len(entries),
                [*(u.row for u in entries), *(u.first for u in entries), *(u.blocks[0] for u in entries)],
            ),
            (len(long), _span_records(long)),
            (0, np.concatenate([np.asarray(span.ints, np.int32) for span in long]) if long else ()),
        )
        starts = list(accumulate((len(ints) for _, ints in sections), initial=HEADER_INTS))
        packed = np.zeros(starts[-1], np.int32)
        packed[: 2 * len(sections)] = [
            number for (count, _), start in zip(sections, starts[:-1], strict=True) for number in (count, start)
        ]
        for (_, ints), start in zip(sections, starts[:-1], strict=True):
            packed[start : start + len(ints)] = ints
        num_programs = len(dead) + len(joins) + -(-len(entries) // ENTRIES_PER_PROGRAM) + len(long)
        return Changes(packed, len(moves), num_programs)


def _joins(joins: Sequence[tuple[int, Sequence[int] | npt.NDArray[np.int32]]]) -> npt.NDArray[np.int32]:
    records = np.empty((len(joins), JOIN_INTS), np.int32)
    for record, (row, ints) in zip(records, joins, strict=True):
        record[0] = row
        record[1:] = ints
    return records.ravel()


def _span_records(spans: Sequence[Span]) -> list[int]:
    starts = accumulate((len(span.ints) for span in spans), initial=0)
    return [i for s, start in zip(spans, starts, strict=False) for i in (s.table, s.row, s.first, len(s.ints), start)]


def check_moves(pairs: Sequence[tuple[int, int]]) -> None:
    """Raise AssertionError unless sources and destinations are all different rows."""
    if len({row for pair in pairs for row in pair}) != 2 * len(pairs):
        raise AssertionError(f"sources and destinations of {pairs} are not all different")
