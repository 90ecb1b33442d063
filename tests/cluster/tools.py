"""Programs of Debian packages that these tests run: found, or unpacked into the cache at first use."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.debian_tools import NoProgram, find


def program(name: str) -> Path:
    """Skips the test where the program is neither here nor to be had, and says why."""
    try:
        return find(name)
    except NoProgram as error:
        pytest.skip(f"{name}: {error}")
