"""SHA-256 of a file, read in pieces (hashlib.file_digest came with Python 3.11; the package runs on 3.10)."""

from __future__ import annotations

import hashlib
from pathlib import Path

PIECE_BYTES = 1 << 20


def sha256_of(file: Path) -> str:
    """Hex digest. Raises OSError."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while piece := stream.read(PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()
