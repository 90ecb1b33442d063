"""Bytes as a peer sends them on the engine's socket: messages, or a ValueError that drops that peer alone."""

from __future__ import annotations

import struct

from cursor import Cursor

from flover_backend.channel import MAX_FRAME_BYTES, FrameReader


def read_stream(data: bytes) -> None:
    """`data` arrives in pieces at either side's reader."""
    cursor = Cursor(data)
    reader = FrameReader(engine_side=cursor.below(2) == 0)
    piece = 1 + cursor.byte() * 4
    while not cursor.is_at_end:
        try:
            reader.feed(cursor.take(piece))
        except ValueError as error:
            assert len(str(error)) < 1000
            return


def read_frame(data: bytes) -> None:
    """`data` is one frame's body, whole, at both sides."""
    for engine_side in (True, False):
        reader = FrameReader(engine_side=engine_side)
        try:
            assert len(reader.feed(struct.pack("<I", len(data)) + data)) == 1
        except ValueError as error:
            assert len(str(error)) < 1000
    assert len(data) <= MAX_FRAME_BYTES
