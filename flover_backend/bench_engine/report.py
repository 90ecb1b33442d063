"""The table as text and everything as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flover_backend.bench_engine.figures import Line

_HEAD = ("model", "what", "bar", "figure", "")
_WIDEST = 108


def mark(line: Line) -> str:
    """held, missed, or nothing where there is no bar."""
    return "" if line.held is None else "held" if line.held else "MISSED"


def table(lines: Sequence[Line]) -> list[str]:
    """One line of text each, in columns, and a count."""
    cells = [_HEAD, *((line.model, _cut(line.what), line.bar, line.figure, mark(line)) for line in lines)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(_HEAD))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    judged = [line.held for line in lines if line.held is not None]
    rule = "-" * max(len(row) for row in text)
    return [text[0], rule, *text[1:], rule, f"{sum(judged)} of {len(judged)} bars held"]


def _cut(text: str) -> str:
    return text if len(text) <= _WIDEST else text[: _WIDEST - 3] + "..."


def save(path: Path, facts: dict[str, Any], lines: Sequence[Line]) -> None:
    """Replace `path`; called after every part, so that an interrupted run leaves what it measured."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(json.dumps(facts | {"lines": [line.plain() for line in lines]}, indent=1))
    fresh.replace(path)
