"""What a measurement gives: samples with their median and spread, and a line of the table with its bar."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


class BenchError(Exception):
    """A part cannot be measured; the others go on."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and tails of some samples, in their own unit."""

    median: float
    p05: float
    p95: float
    count: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        """Of at least one sample."""
        return cls(statistics.median(samples), percentile(samples, 0.05), percentile(samples, 0.95), len(samples))

    def scaled(self, factor: float) -> dict[str, float]:
        """As plain numbers of another unit."""
        tails = {name: getattr(self, name) * factor for name in ("median", "p05", "p95")}
        return tails | {"count": self.count}


def percentile(samples: Sequence[float], share: float) -> float:
    """The smallest sample that at least `share` of them do not exceed."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table. `held` None: no bar, or not measured because a part was not asked for."""

    part: str
    model: str
    what: str
    bar: str
    figure: str
    held: bool | None
    details: dict[str, Any] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Bar:
    """A limit in words and as a number."""

    limit: float
    unit: str = ""
    at_least: bool = False

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {show(self.limit, self.unit)}"

    def holds(self, value: float) -> bool:
        """NaN never holds."""
        return value >= self.limit if self.at_least else value <= self.limit


def judge(part: str, model: str, what: str, value: float, bar: Bar | None, unit: str = "", **details: Any) -> Line:
    """A measured line; without a bar it informs."""
    return Line(
        part,
        model,
        what,
        "" if bar is None else str(bar),
        show(value, unit or (bar.unit if bar else "")),
        None if bar is None else bar.holds(value),
        {"value": value, **details},
    )


def failed(part: str, model: str, error: Exception) -> Line:
    """A part that gave no figure: missed."""
    return Line(
        part, model, f"{part}: not measured", "", f"{type(error).__name__}: {error}".splitlines()[0][:160], False
    )


def show(value: float, unit: str) -> str:
    """With the digits that matter."""
    digits = 3 if abs(value) < 10 else 2 if abs(value) < 100 else 1
    return f"{value:.{digits}f}{' ' + unit if unit else ''}"
