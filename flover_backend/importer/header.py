"""A GGUF file's metadata walked through before the gguf package reads it: every length must lie within the file, and
arrays hold no arrays. The package itself follows a damaged count for minutes (found by fuzzing, gguf 0.19.0).

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Value type -> bytes: integers of 8, 16, 32, 64 bits, float32, bool, float64."""
STRING, ARRAY = 8, 9
LEAST_ENTRY_BYTES = 13
"""Of a metadata entry: an empty key, a type, one byte."""
LEAST_TENSOR_BYTES = 24


class HeaderError(ValueError):
    """The file contradicts itself; the text says where."""


def check_header(path: Path) -> None:
    """Raise `HeaderError` when the metadata of `path`, which begins with GGUF, cannot be what it says."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        _Walk(data).metadata()


class _Walk:
    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 4
        (version,) = struct.unpack("<I", self._bytes(4, "version"))
        self._order = ">" if version and not version & 0xFFFF else "<"

    def metadata(self) -> None:
        """All entries, up to the tensors."""
        num_tensors, num_entries = self._number("Q", "counts"), self._number("Q", "counts")
        left = len(self._data) - self._at
        if num_entries * LEAST_ENTRY_BYTES + num_tensors * LEAST_TENSOR_BYTES > left:
            raise HeaderError(f"{num_entries} metadata entries and {num_tensors} tensors do not fit {left} bytes")
        for entry in range(num_entries):
            what = f"metadata entry {entry}"
            self._string(what)
            self._value(self._number("I", what), what)

    def _value(self, kind: int, what: str) -> None:
        if kind != ARRAY:
            self._skip(kind, 1, what)
            return
        element, length = self._number("I", what), self._number("Q", what)
        self._skip(element, length, what)

    def _skip(self, kind: int, count: int, what: str) -> None:
        if kind == STRING:
            for _ in range(count):
                self._string(what)
        elif kind in SCALAR_BYTES:
            self._bytes(count * SCALAR_BYTES[kind], what)
        else:
            raise HeaderError(f"{what} has a value of type {kind}{', an array in an array' if kind == ARRAY else ''}")

    def _string(self, what: str) -> None:
        self._bytes(self._number("Q", what), what)

    def _number(self, kind: str, what: str) -> int:
        (number,) = struct.unpack(self._order + kind, self._bytes(struct.calcsize("<" + kind), what))
        return int(number)

    def _bytes(self, count: int, what: str) -> bytes:
        """The next bytes; of long pieces only their presence is of interest, and nothing is copied."""
        end = self._at + count
        if end > len(self._data):
            raise HeaderError(f"{what} ends at byte {end} of {len(self._data)}")
        piece = self._data[self._at : end] if count <= 8 else b""
        self._at = end
        return piece
