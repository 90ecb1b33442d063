"""Measures again where perf_analyzer's export breaks off. Knows neither what is measured nor what becomes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from benchmarks.pa.errors import BrokenExport

EXPORT_TRIES = 6
"""5 of 14 exports of 256 requests broke off in one session on an H200."""

T = TypeVar("T")


def until_complete(measure: Callable[[], None], read: Callable[[], T], export: Path, tell: Callable[[str], None]) -> T:
    """What `read` makes of a complete `export`. Raises what they raise, `BrokenExport` after the last try alone."""
    for tries_left in reversed(range(EXPORT_TRIES)):
        measure()
        try:
            return read()
        except BrokenExport as error:
            if not tries_left:
                raise
            tell(f"measuring again: {error}")
            export.unlink(missing_ok=True)
    raise AssertionError("the last try returns or raises")
