"""Programs of Debian packages that these tests run: found, or unpacked into the cache at first use."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from live_server import ROOT

_SPEC = importlib.util.spec_from_file_location("debian_tools", ROOT / "scripts" / "debian_tools.py")
assert _SPEC is not None and _SPEC.loader is not None
debian_tools = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(debian_tools)


def program(name: str) -> Path:
    """Skips the test where the program is neither here nor to be had, and says why."""
    try:
        return debian_tools.find(name)
    except debian_tools.NoProgram as error:
        pytest.skip(f"{name}: {error}")
