"""A folder that a measurement's results go to. Knows no measurement."""

from __future__ import annotations

import time
from pathlib import Path

from flover_backend.errors import ConfigError


def new_folder(out: Path | None, kind: str) -> Path:
    """Absolute, made: `out`, else out/`kind`/TIME. Raises `ConfigError` for a file, or a folder that holds something.

    Results are never mixed.
    """
    folder = (out or Path("out", kind, time.strftime("%Y%m%d-%H%M%S"))).resolve()
    try:
        folder.mkdir(parents=True, exist_ok=out is not None)  # two commands of one second have one default name
        is_new = not any(folder.iterdir())
    except OSError as error:
        raise ConfigError(f"--out is {folder}, which is no folder: {error.strerror}; give a new folder") from None
    if not is_new:
        raise ConfigError(f"--out is {folder}, which is not empty; give a new folder, or remove it")
    return folder
