"""The engine's memory of its last iterations, which local tools read. Knows only `Iteration` records."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from itertools import islice

from flover_backend.channel import Iteration

RING_LENGTH = 65_536


class IterationRing:
    """The last `RING_LENGTH` iterations, ordered by step."""

    def __init__(self, length: int = RING_LENGTH) -> None:
        self._records: deque[Iteration] = deque(maxlen=length)

    def append(self, record: Iteration) -> None:
        """Steps only grow (iterations that computed nothing are not recorded, so there may be gaps)."""
        assert not self._records or record.step > self._records[-1].step, "steps grow"
        self._records.append(record)

    def since(self, step: int) -> list[Iteration]:
        """The records with a step of at least `step`, oldest first."""
        first = bisect_left(self._records, step, key=lambda record: record.step)
        return list(islice(self._records, first, None))
