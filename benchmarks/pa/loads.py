"""The runs that the command line asks for. Knows its flags; writes a file of gaps where none is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.pa import modes
from benchmarks.pa.errors import MeasurementFailed
from benchmarks.pa.inputs import make_intervals
from benchmarks.pa.modes import Extent, Load, Mode

INTERVALS_BY_TIME = 1000
"""Gaps when the number of requests is not known; perf_analyzer starts again when they are used up."""


@dataclass(frozen=True)
class LoadFlags:
    """As they were given."""

    concurrency: str
    rate: str
    intervals: Path | None
    periodic: str
    request_period: int
    extent: Extent
    seed: int


def make_loads(mode: Mode, flags: LoadFlags, folder: Path) -> list[Load]:
    """One for each number of the mode's flag. Raises `MeasurementFailed` naming the flag."""
    if mode is Mode.ALL:
        return [load for one in Mode if one is not Mode.ALL for load in make_loads(one, flags, folder)]
    if mode is Mode.CONCURRENCY:
        levels = numbers(flags.concurrency, "--concurrency")
        return [modes.concurrency(_whole(level, "--concurrency"), flags.extent) for level in levels]
    if mode is Mode.PERIODIC:
        return [modes.periodic(flags.periodic, flags.request_period)]
    rates = numbers(flags.rate, "--rate")
    if mode is Mode.INTERVALS:
        return [_intervals(rate, flags, folder) for rate in (rates if flags.intervals is None else rates[:1])]
    return [modes.rate(rate, flags.extent, is_poisson=mode is Mode.POISSON) for rate in rates]


def _intervals(rate: float, flags: LoadFlags, folder: Path) -> Load:
    if flags.intervals is not None:
        return modes.intervals(flags.intervals, f"gaps of {flags.intervals.name}", flags.intervals.stem, flags.extent)
    modes.check(rate > 0, f"--rate is {rate:g}; allowed is above 0")
    count = flags.extent.requests if flags.extent.seconds is None else INTERVALS_BY_TIME
    file = folder / f"intervals-{rate:g}.txt"
    file.write_text("".join(f"{gap}\n" for gap in make_intervals(count, rate, flags.seed)))
    words = f"{rate:g} requests/s, Poisson gaps of seed {flags.seed}"
    return modes.intervals(file, words, f"{rate:g}", flags.extent)


def numbers(text: str, flag: str) -> list[float]:
    """`[1, 8, 32]` for `1,8,32`. Raises `MeasurementFailed`."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        raise MeasurementFailed(f"{flag} is {text!r}; allowed is a number, or several as 1,8,32") from None
    modes.check(len(set(found)) == len(found), f"{flag} is {text!r}; each number may come once")
    return found


def _whole(value: float, flag: str) -> int:
    modes.check(value.is_integer(), f"{flag} is {value:g}; allowed is a whole number")
    return int(value)
