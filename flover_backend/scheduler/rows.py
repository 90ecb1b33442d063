"""Which sequence sits in which row of the batch, and the reorder step that keeps the live rows dense.

Modes: `none` leaves interior holes, trims trailing ones, and joins take the lowest hole. `rows` and `compact` keep
the live rows a prefix: joins take the holes first, since a join writes its whole row anyway and so saves a move; the
last live rows move into the holes that are left. So exactly the rows beyond the new number of live rows move.
"""

from __future__ import annotations

from flover_backend.kv.blocks import IntegrityError
from flover_backend.scheduler.config import ReorderMode
from flover_backend.scheduler.sequence import Sequence


class RowMap:
    """Rows 0 .. max_rows-1; sets `Sequence.row`. Changes rows only in `place`, once a plan."""

    def __init__(self, max_rows: int, reorder: ReorderMode) -> None:
        self.max_rows = max_rows
        self.num_leaves = 0
        """Sequences that ever left a row."""
        self._dense = reorder != "none"
        self._slots: list[Sequence | None] = []
        self._vacated: list[int] = []

    @property
    def num_rows(self) -> int:
        """Rows of the batch, holes included."""
        return len(self._slots)

    def vacate(self, sequence: Sequence) -> None:
        """A sequence leaves its row; the row stays a hole until `place`."""
        if sequence.row is None:
            raise IntegrityError(f"{sequence!r} leaves a row but has none")
        self._slots[sequence.row] = None
        self._vacated.append(sequence.row)
        sequence.row = None
        self.num_leaves += 1

    def place(self, joining: list[Sequence]) -> tuple[list[tuple[int, int]], list[int]]:
        """Give `joining` their rows: (row moves as (source, destination), rows that became free).

        Moves come first on the device; rows that a join takes at once are among the free ones too.
        """
        num_live = sum(slot is not None for slot in self._slots) + len(joining)
        if num_live > self.max_rows:
            raise IntegrityError(f"{num_live} sequences need a row, there are {self.max_rows}")
        moves = self._fill_holes(num_live) if self._dense else []
        holes = [row for row, slot in enumerate(self._slots) if slot is None]
        holes += range(len(self._slots), self.max_rows)
        for sequence, row in zip(joining, holes, strict=False):
            self._seat(sequence, row)
        self._trim()
        return moves, self._take_vacated(moves)

    def idle_rows(self) -> list[int]:
        """Holes below `num_rows`."""
        return [row for row, slot in enumerate(self._slots) if slot is None]

    def check_integrity(self, live: list[Sequence]) -> None:
        """Raise `IntegrityError` unless exactly the sequences of `live` that have a row sit in theirs."""
        seated = {sequence.row: sequence for sequence in live if sequence.row is not None}
        for row, slot in enumerate(self._slots):
            if seated.pop(row, None) is not slot:
                raise IntegrityError(f"row {row} holds {slot!r}, which does not say so or is not live")
        if seated:
            raise IntegrityError(f"sequences claim rows that are not theirs: {list(seated.values())}")

    def _fill_holes(self, num_live: int) -> list[tuple[int, int]]:
        sources = [row for row in range(len(self._slots) - 1, num_live - 1, -1) if self._slots[row] is not None]
        holes = [row for row, slot in enumerate(self._slots[:num_live]) if slot is None]
        moves = list(zip(sources, holes, strict=False))
        for source, destination in moves:
            sequence = self._slots[source]
            assert sequence is not None
            self._slots[source] = None
            self._seat(sequence, destination)
        return moves

    def _seat(self, sequence: Sequence, row: int) -> None:
        while len(self._slots) <= row:
            self._slots.append(None)
        self._slots[row] = sequence
        sequence.row = row

    def _trim(self) -> None:
        while self._slots and self._slots[-1] is None:
            self._slots.pop()

    def _take_vacated(self, moves: list[tuple[int, int]]) -> list[int]:
        destinations = dict(moves).values()
        dead = [row for row in self._vacated if row not in destinations] + [source for source, _ in moves]
        self._vacated = []
        return sorted(dead)
