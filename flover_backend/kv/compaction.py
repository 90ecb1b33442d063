"""Packing the used blocks to the prefix 1 .. k of the KV buffer, a bounded number of blocks an iteration.

Highest used block -> lowest free id. A destination is below every source, so no move reads what another wrote and
their order does not matter; and since new blocks take the lowest free ids too, the packing converges.
"""

from __future__ import annotations

from flover_backend.kv.tables import BlockMove, BlockTables


def compact(tables: BlockTables, max_moves: int) -> list[BlockMove]:
    """Move at most `max_moves` blocks in the books; the runner must copy their contents before anything else.

    A shared block moves once; its `holders` are all the tables that changed.
    """
    moves: list[BlockMove] = []
    while len(moves) < max_moves and not tables.allocator.is_packed:
        moves.append(tables.relocate_highest())
    return moves
