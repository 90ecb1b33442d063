"""What a fault cost: a row of docs/reliability.md. Plain data; knows no server."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One bar of one fault."""

    fault: str
    injected: str
    """How often, or for how long."""
    lost: str
    """Of what was accepted: `nothing`, or what and how much."""
    figure: str
    """What the values are, such as `accepted p99 latency over a full server's`."""
    values: list[float]
    """One a repeat; their median counts."""
    unit: str = ""
    bar: float | None = None
    """None: a figure for orientation."""
    command: str = ""
    """That measures it."""
    is_floor: bool = False
    """The bar is the least that is allowed, not the most."""

    @property
    def median(self) -> float:
        """Of the repeats."""
        ordered = sorted(self.values)
        middle = len(ordered) // 2
        return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2

    @property
    def is_held(self) -> bool:
        """Whether the median keeps the bar, and nothing was lost."""
        if self.lost != NOTHING:
            return False
        return self.bar is None or (self.median >= self.bar if self.is_floor else self.median <= self.bar)

    @property
    def verdict(self) -> str:
        """For tables."""
        if self.bar is None and self.is_held:
            return "–"
        return "held" if self.is_held else "MISSED"

    def measured(self) -> str:
        """The median, and the range it is from."""
        unit = f" {self.unit}" if self.unit else ""
        spread = f" ({_shown(min(self.values))} to {_shown(max(self.values))})" if len(self.values) > 1 else ""
        return f"{_shown(self.median)}{unit}{spread}"

    def bar_in_words(self) -> str:
        """With its direction."""
        return "–" if self.bar is None else f"{'≥' if self.is_floor else '≤'} {_shown(self.bar)} {self.unit}".rstrip()


NOTHING = "nothing"


def lost_in_words(short: int, accepted: int) -> str:
    """`short` of `accepted` requests did not get all their tokens."""
    return f"{short} of {accepted} accepted requests" if short else NOTHING


def markdown(rows: Sequence[Row]) -> str:
    """A table."""
    head = ("fault", "injected", "lost", "figure", "measured", "bar", "", "command")
    lines = [head, tuple("---" for _ in head)]
    lines += [
        (
            *(row.fault, row.injected, row.lost, row.figure, row.measured(), row.bar_in_words(), row.verdict),
            f"`{row.command}`",
        )
        for row in rows
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _shown(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
