"""Which blocks of the KV buffer are free and how often each used one is held. Knows ids and counts, no tensors.

Who owns what:

| thing                                | owner             | taken by                     | given back by        |
|--------------------------------------|-------------------|------------------------------|----------------------|
| free ids 1..num_blocks (a heap)      | BlockAllocator    | allocate, relocate           | free, relocate       |
| reference count of a used id         | BlockAllocator    | allocate (1), fork (+1)      | free (-1)            |
| list of the blocks of a sequence     | BlockTables       | assign, share, append        | release              |
| reverse map block -> its holders     | BlockTables       | with the list                | with the list        |
| contents of a block                  | the runner        | whoever holds the block's id | nobody: overwritten  |
| block 0, the null block              | nobody            | rows computed for nothing    | -                    |

Only BlockTables calls allocate, fork, free and relocate; so a block leaks only if a table does.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence


class IntegrityError(AssertionError):
    """An invariant of the scheduler or of the KV bookkeeping is broken; the text says which."""


class BlockAllocator:
    """Ids 1 .. num_blocks, lowest free id first, so that used blocks stay near the front of the buffer.

    Check first (`can_allocate`), then commit (`allocate`). All methods raise `IntegrityError` on misuse and
    then have changed nothing.
    """

    def __init__(self, num_blocks: int) -> None:
        if num_blocks < 1:
            raise ValueError(f"num_blocks is {num_blocks}; at least 1 is needed")
        self.num_blocks = num_blocks
        self.high_water_mark = 0
        """Most blocks used at a time so far."""
        self._free = list(range(1, num_blocks + 1))
        self._references = [0] * (num_blocks + 1)
        self._highest_used = 0

    @property
    def num_free(self) -> int:
        """Blocks that nobody holds."""
        return len(self._free)

    @property
    def num_used(self) -> int:
        """Blocks that somebody holds, shared ones counted once."""
        return self.num_blocks - len(self._free)

    @property
    def highest_used(self) -> int:
        """The largest used id, 0 when none is used."""
        return self._highest_used

    @property
    def is_packed(self) -> bool:
        """True when the used blocks are 1 .. num_used."""
        return self._highest_used == self.num_used

    def references(self, block: int) -> int:
        """How many tables hold `block`."""
        return self._references[block]

    def can_allocate(self, num_blocks: int) -> bool:
        """Whether `allocate(num_blocks)` would succeed."""
        return num_blocks <= len(self._free)

    def allocate(self, num_blocks: int) -> list[int]:
        """The `num_blocks` lowest free ids, ascending, each with one reference."""
        if not self.can_allocate(num_blocks):
            raise IntegrityError(f"{num_blocks} blocks asked, {len(self._free)} free; call can_allocate first")
        blocks = [heapq.heappop(self._free) for _ in range(num_blocks)]
        for block in blocks:
            self._references[block] = 1
        if blocks:
            self._highest_used = max(self._highest_used, blocks[-1])
        self.high_water_mark = max(self.high_water_mark, self.num_used)
        return blocks

    def fork(self, blocks: Sequence[int]) -> None:
        """One more holder for each of `blocks`."""
        self._check_used(blocks)
        for block in blocks:
            self._references[block] += 1

    def free(self, blocks: Sequence[int]) -> None:
        """One holder less for each of `blocks`; those without a holder are free."""
        self._check_used(blocks)
        for block in blocks:
            self._references[block] -= 1
            if self._references[block] == 0:
                heapq.heappush(self._free, block)
        self._lower_highest_used()

    def relocate_highest(self) -> tuple[int, int]:
        """The highest used block takes the lowest free id, its references with it: (source, destination)."""
        if self.is_packed:
            raise IntegrityError(f"the {self.num_used} used blocks are packed already; there is nothing to relocate")
        source = self._highest_used
        destination = heapq.heapreplace(self._free, source)
        self._references[destination], self._references[source] = self._references[source], 0
        self._lower_highest_used()
        return source, destination

    def check_integrity(self) -> None:
        """Raise `IntegrityError` unless free and used ids partition 1 .. num_blocks and counts agree."""
        free_ids = [block for block in range(1, self.num_blocks + 1) if self._references[block] == 0]
        if sorted(self._free) != free_ids:
            raise IntegrityError(f"free ids {sorted(self._free)} are not those without a reference {free_ids}")
        if self._references[0] != 0 or min(self._references) < 0:
            raise IntegrityError("the null block is held, or a block has a negative reference count")
        used = [block for block in range(1, self.num_blocks + 1) if self._references[block] > 0]
        if self._highest_used != (used[-1] if used else 0):
            raise IntegrityError(f"highest used block is noted as {self._highest_used}, used are {used}")

    def _check_used(self, blocks: Sequence[int]) -> None:
        if len(dict.fromkeys(blocks)) != len(blocks):
            raise IntegrityError(f"a block is listed twice in {list(blocks)}")
        for block in blocks:
            if not 0 < block <= self.num_blocks or self._references[block] == 0:
                raise IntegrityError(f"block {block} is not in use (ids are 1 .. {self.num_blocks})")

    def _lower_highest_used(self) -> None:
        while self._highest_used and self._references[self._highest_used] == 0:
            self._highest_used -= 1
