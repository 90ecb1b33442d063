"""perf_analyzer's load modes for decoupled models, as its arguments. Pure; runs nothing.

A run is bounded by a number of requests where the mode allows it: then every request counts. Measuring by time, only
requests that end inside a window do.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from benchmarks.pa.errors import MeasurementFailed

WINDOWS = 3
"""perf_analyzer judges three windows before it ends a measurement by time; fewer --max-trials is an error of its."""


class Mode(StrEnum):
    """How requests are sent. `ALL` runs the others one after another."""

    CONCURRENCY = "concurrency"
    RATE = "rate"
    POISSON = "poisson"
    INTERVALS = "intervals"
    PERIODIC = "periodic"
    ALL = "all"


@dataclass(frozen=True)
class Extent:
    """How long a run is: so many requests, or else so many seconds."""

    requests: int = 64
    seconds: float | None = None

    def arguments(self) -> list[str]:
        """Of perf_analyzer."""
        if self.seconds is None:
            return ["--request-count", str(self.requests)]
        window_ms = max(1, round(self.seconds * 1000 / WINDOWS))
        windows = ["--measurement-interval", str(window_ms), "--max-trials", str(WINDOWS)]
        return [*windows, "--stability-percentage", "999"]


@dataclass(frozen=True)
class Load:
    """One run. `label` names its files, `words` its table."""

    mode: Mode
    label: str
    words: str
    arguments: tuple[str, ...]
    num_requests: int | None
    """None: as many as the time allows."""
    min_output: int = 1
    """Tokens that every request must ask for at least."""


def concurrency(level: int, extent: Extent) -> Load:
    """A new request whenever one of `level` has ended; with as many requests as `level`, one burst."""
    check(level >= 1, f"--concurrency is {level}; allowed is 1 and more")
    by_count = extent.seconds is None
    check(
        not by_count or extent.requests >= level,
        f"--requests is {extent.requests}, less than --concurrency {level}: that many would never be in flight",
    )
    words = f"{level} in flight" + (", one burst" if by_count and extent.requests == level else "")
    return _load(Mode.CONCURRENCY, f"concurrency-{level}", words, ["--concurrency-range", str(level)], extent)


def rate(per_second: float, extent: Extent, *, is_poisson: bool) -> Load:
    """Requests at constant gaps, or of perf_analyzer's one Poisson schedule, whatever the answers take."""
    check(per_second > 0, f"--rate is {per_second:g}; allowed is above 0")
    mode, distribution = (Mode.POISSON, "poisson") if is_poisson else (Mode.RATE, "constant")
    arguments = ["--request-rate-range", f"{per_second:g}", "--request-distribution", distribution]
    words = f"{per_second:g} requests/s, {'Poisson' if is_poisson else 'constant gaps'}"
    return _load(mode, f"{mode.value}-{per_second:g}", words, arguments, extent)


def intervals(file: Path, words: str, name: str, extent: Extent) -> Load:
    """Gaps from a file, microseconds a line, from its start again when they are used up."""
    check(file.is_file(), f"--intervals is {file}; allowed is a file with a gap in microseconds on each line")
    lines = file.read_text().split()
    check(
        bool(lines) and all(line.isdecimal() for line in lines),
        f"{file} must hold one whole number of microseconds on each line",
    )
    return _load(Mode.INTERVALS, f"intervals-{name}", words, ["--request-intervals", str(file.resolve())], extent)


def periodic(text: str, period: int) -> Load:
    """`START:END:STEP`: START requests at once, STEP more whenever the newest have `period` responses, END in all."""
    parts = text.split(":")
    check(
        len(parts) == 3 and all(part.isdecimal() and int(part) >= 1 for part in parts),
        f"--periodic is {text!r}; allowed is START:END:STEP with numbers from 1 on, such as 4:32:4",
    )
    start, end, step = map(int, parts)
    check(
        end >= start and (end - start) % step == 0,
        f"--periodic is {text!r}; END must be START plus some STEPs, such as {start}:{start + 4 * step}:{step}",
    )
    check(period >= 1, f"--request-period is {period}; allowed is 1 and more")
    words = f"{start}, then {step} more each {period} responses, {end} in all"
    arguments = ("--periodic-concurrency-range", text, "--request-period", str(period))
    return Load(Mode.PERIODIC, f"periodic-{text.replace(':', '-')}", words, arguments, end, min_output=period)


def _load(mode: Mode, label: str, words: str, arguments: list[str], extent: Extent) -> Load:
    check(extent.requests >= 1, f"--requests is {extent.requests}; allowed is 1 and more")
    check(extent.seconds is None or extent.seconds > 0, f"--seconds is {extent.seconds}; allowed is above 0")
    count = extent.requests if extent.seconds is None else None
    return Load(mode, label, words, (*arguments, *extent.arguments()), count)


def check(holds: bool, otherwise: str) -> None:
    """Raise `MeasurementFailed` unless it holds."""
    if not holds:
        raise MeasurementFailed(otherwise)
