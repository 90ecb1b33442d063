"""Where downloaded files are kept: one directory, named by one rule. Knows nothing of what is in it."""

from __future__ import annotations

import os
from pathlib import Path

ENV = "FLOVER_CACHE"


def cache_dir() -> Path:
    """$FLOVER_CACHE, else `.cache/` of the checkout that this package runs from, else the user's XDG cache."""
    if os.environ.get(ENV):
        return Path(os.environ[ENV]).expanduser().absolute()
    checkout = Path(__file__).resolve().parent.parent
    if (checkout / "pyproject.toml").is_file():
        return checkout / ".cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flover"
