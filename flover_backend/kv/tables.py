"""The blocks of each sequence, in order, and who holds each block. Knows sequence numbers (uid), no rows, no tokens.

The only caller of the allocator (see the table in kv/blocks.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from flover_backend.kv.blocks import BlockAllocator, IntegrityError


@dataclass(frozen=True, slots=True)
class BlockMove:
    """A used block got another id; entry `index` of each holder's table names `destination` now."""

    source: int
    destination: int
    holders: tuple[tuple[int, int], ...]
    """(uid, index in its table), oldest holder first."""


class BlockTables:
    """Per uid the list of its block ids. A block is in several tables only at the front of prompts (n > 1)."""

    def __init__(self, allocator: BlockAllocator) -> None:
        self.allocator = allocator
        self._tables: dict[int, list[int]] = {}
        self._holders: dict[int, dict[int, int]] = {}

    def __contains__(self, uid: int) -> bool:
        return uid in self._tables

    def __getitem__(self, uid: int) -> list[int]:
        """The live list of `uid`'s blocks: read it, never change it, gone with the next move."""
        return self._tables[uid]

    def assign(self, uid: int, num_blocks: int) -> None:
        """Give a sequence without a table `num_blocks` blocks of its own."""
        self._require_no_table(uid)
        self._hold(uid, self.allocator.allocate(num_blocks))

    def share(self, parent: int, child: int, num_shared: int, num_own: int) -> None:
        """Give `child` the parent's first `num_shared` blocks (held by both) and `num_own` blocks of its own."""
        self._require_no_table(child)
        own = self.allocator.allocate(num_own)
        shared = self._tables[parent][:num_shared]
        self.allocator.fork(shared)
        self._hold(child, shared + own)

    def append(self, uid: int) -> None:
        """One more block at the end of a sequence's table."""
        table = self._tables[uid]
        (block,) = self.allocator.allocate(1)
        self._holders[block] = {uid: len(table)}
        table.append(block)

    def release(self, uid: int) -> None:
        """Take a sequence's table away; blocks that nobody else holds are free at once."""
        blocks = self._tables.pop(uid)
        for block in blocks:
            holders = self._holders[block]
            del holders[uid]
            if not holders:
                del self._holders[block]
        self.allocator.free(blocks)

    def relocate_highest(self) -> BlockMove:
        """Give the highest used block the lowest free id in every table that holds it."""
        source, destination = self.allocator.relocate_highest()
        holders = self._holders.pop(source)
        self._holders[destination] = holders
        for uid, index in holders.items():
            self._tables[uid][index] = destination
        return BlockMove(source, destination, tuple(holders.items()))

    def check_integrity(self) -> None:
        """Raise `IntegrityError` unless tables, holders and the allocator's counts say the same."""
        self.allocator.check_integrity()
        holders: dict[int, dict[int, int]] = {}
        for uid, table in self._tables.items():
            for index, block in enumerate(table):
                if uid in holders.setdefault(block, {}):
                    raise IntegrityError(f"block {block} is twice in the table of sequence {uid}")
                holders[block][uid] = index
        if holders != self._holders:
            raise IntegrityError(f"reverse map {self._holders} differs from the tables' {holders}")
        if len(holders) != self.allocator.num_used:
            raise IntegrityError(f"{self.allocator.num_used} blocks are used, tables hold {len(holders)}: a leak")
        for block, held_by in holders.items():
            if len(held_by) != self.allocator.references(block):
                count = self.allocator.references(block)
                raise IntegrityError(f"block {block} is in {len(held_by)} tables and counts {count} references")

    def check_holders(self, uids: list[int]) -> None:
        """Raise `IntegrityError` unless exactly these sequences have a table."""
        if sorted(self._tables) != sorted(uids):
            raise IntegrityError(f"sequences {sorted(self._tables)} hold blocks, live are {sorted(uids)}: a leak")

    def _require_no_table(self, uid: int) -> None:
        if uid in self._tables:
            raise IntegrityError(f"sequence {uid} has {len(self._tables[uid])} blocks already")

    def _hold(self, uid: int, blocks: list[int]) -> None:
        self._tables[uid] = blocks
        for index, block in enumerate(blocks):
            self._holders.setdefault(block, {})[uid] = index
