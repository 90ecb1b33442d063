"""Values out of a fuzzer's bytes, so that one mutated byte changes one choice. Behind the end everything is zero."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


class Cursor:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def is_at_end(self) -> bool:
        return self._at >= len(self._data)

    def take(self, count: int) -> bytes:
        piece = self._data[self._at : self._at + count]
        self._at += count
        return piece

    def rest(self) -> bytes:
        return self.take(len(self._data))

    def byte(self) -> int:
        return int.from_bytes(self.take(1), "little")

    def below(self, limit: int) -> int:
        return self.byte() % limit

    def choice(self, options: Sequence[Item]) -> Item:
        return options[self.below(len(options))]

    def string(self) -> bytes:
        """Up to 64 KiB: a length of two bytes, then the bytes."""
        return self.take(int.from_bytes(self.take(2), "little"))

    def integer(self) -> int:
        """Mostly small, sometimes at the edges of what msgpack holds."""
        kind, number = self.byte(), int.from_bytes(self.take(2), "little", signed=True)
        return number if kind < 192 else (2**31, -(2**31), 2**40, 2**63, -(2**63), 2**64 - 1, 0, 1)[kind % 8]

    def real(self) -> float:
        kind, number = self.byte(), int.from_bytes(self.take(2), "little", signed=True)
        if kind < 160:
            return number / 64
        edges = (float("nan"), float("inf"), -float("inf"), 1e308, -1e308, 5e-324, -0.0, 1e-30)
        return edges[kind % 8] if kind < 224 else struct.unpack("<d", self.take(8).ljust(8, b"\0"))[0]
