"""In-flight requests over iterations or time as a chart of block characters. Pure: numbers in, lines out."""

from __future__ import annotations

import math
from collections.abc import Sequence

_EIGHTHS = " ▁▂▃▄▅▆▇█"
_STEP = 4
"""The top of the scale is a multiple of it."""


def draw(
    rows: Sequence[float], width: int, height: int, begin: str = "0", end: str | None = None, label: int = 0
) -> list[str]:
    """`height` lines of at most `width` characters: a scale, bars, and below the names of the first and the last bar.

    Several values share a bar when there are more than fit; it shows their mean. `end`: the number of iterations when
    none is given. `label`: the least width of the scale.
    """
    top = max(_STEP, math.ceil(max(rows, default=1) / _STEP) * _STEP)
    label = max(label, len(str(top)))
    num_bars = bars_in(width, label)
    per_bar = max(1, -(-len(rows) // num_bars))
    bars = [sum(part) / len(part) for part in _parts(rows, per_bar)]
    num_lines = height - 2
    lines = [_line(bars, top, num_lines, level, label) for level in reversed(range(num_lines))]
    end = f"{len(rows)} iterations" if end is None else end
    return [*lines, " " * label + " └" + "─" * num_bars, _foot(begin, end, len(bars), num_bars, label)]


def bars_in(width: int, label: int) -> int:
    """How many bars a chart of this width has beside a scale of `label` characters."""
    return max(1, width - label - 2)


def _parts(rows: Sequence[float], size: int) -> list[Sequence[float]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _line(bars: list[float], top: int, num_lines: int, level: int, label: int) -> str:
    marks = {num_lines - 1: str(top), (num_lines - 1) // 2: str(top * ((num_lines - 1) // 2 + 1) // num_lines)}
    cells = [_EIGHTHS[min(8, max(0, round((bar / top * num_lines - level) * 8)))] for bar in bars]
    return f"{marks.get(level, ''):>{label}} │" + "".join(cells)


def _foot(begin: str, end: str, num_bars: int, width: int, label: int) -> str:
    room = width - len(begin)
    return " " * (label + 2) + f"{begin}{end:>{min(room, max(len(end) + 1, num_bars - len(begin)))}}"
