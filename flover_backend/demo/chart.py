"""In-flight requests per iteration as a chart of block characters. Pure: numbers in, lines out."""

from __future__ import annotations

from collections.abc import Sequence

_EIGHTHS = " ▁▂▃▄▅▆▇█"
_STEP = 4
"""The top of the scale is a multiple of it."""


def draw(rows: Sequence[int], width: int, height: int) -> list[str]:
    """`height` lines of at most `width` characters: a scale, bars, and the iterations below.

    Several iterations share a bar when there are more than fit; it shows their mean.
    """
    top = max(_STEP, -(-max(rows, default=1) // _STEP) * _STEP)
    label = len(str(top))
    num_bars = max(1, width - label - 2)
    per_bar = max(1, -(-len(rows) // num_bars))
    bars = [sum(part) / len(part) for part in _parts(rows, per_bar)]
    num_lines = height - 2
    lines = [_line(bars, top, num_lines, level, label) for level in reversed(range(num_lines))]
    return [*lines, " " * label + " └" + "─" * num_bars, _foot(len(rows), len(bars), num_bars, label)]


def _parts(rows: Sequence[int], size: int) -> list[Sequence[int]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _line(bars: list[float], top: int, num_lines: int, level: int, label: int) -> str:
    marks = {num_lines - 1: str(top), (num_lines - 1) // 2: str(top * ((num_lines - 1) // 2 + 1) // num_lines)}
    cells = [_EIGHTHS[min(8, max(0, round((bar / top * num_lines - level) * 8)))] for bar in bars]
    return f"{marks.get(level, ''):>{label}} │" + "".join(cells)


def _foot(num_iterations: int, num_bars: int, width: int, label: int) -> str:
    end = f"{num_iterations} iterations"
    return " " * (label + 2) + f"0{end:>{min(width - 1, max(len(end) + 1, num_bars - 1))}}"
