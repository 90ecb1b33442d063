"""What was seen of a model so far: readings of the window, and rows over time. Knows no HTTP and no screen."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from flover_backend.top.exposition import ModelKey, Reading
from flover_backend.top.figures import Change, change

MAX_COLUMNS = 1000
"""Of the chart: more than any terminal has."""


@dataclass(frozen=True)
class Rates:
    """What happened in the window, and how long that was."""

    seconds: float
    change: Change

    def per_second(self, amount: float) -> float | None:
        """None for a window of one reading."""
        return amount / self.seconds if self.seconds > 0 else None


class History:
    """One model's readings, newest last. A counter that falls (a reload, a new server) starts it anew."""

    def __init__(self, key: ModelKey, window_s: float) -> None:
        self.key = key
        self.rows: deque[float] = deque(maxlen=MAX_COLUMNS)
        """A value for each look: the mean rows of the iterations since the look before."""
        self._window_s = window_s
        self._readings: deque[tuple[float, Reading]] = deque()

    @property
    def last(self) -> Reading:
        """The newest."""
        return self._readings[-1][1]

    def add(self, now: float, reading: Reading) -> None:
        """Note a reading of time `now` (monotonic seconds)."""
        if self._readings and reading.has_restarted_since(self.last):
            self._readings.clear()
        # No iteration since the last look: none is running, or a long one is.
        rows = change(self.last, reading).rows if self._readings else None
        self.rows.append(reading.value("flover_requests_running") if rows is None else rows)
        self._readings.append((now, reading))
        while len(self._readings) > 2 and self._readings[1][0] <= now - self._window_s:
            self._readings.popleft()

    def add_nothing(self) -> None:
        """The server did not answer: a gap in the chart."""
        self.rows.append(0.0)

    def window(self) -> Rates:
        """From the oldest reading that is kept to the newest."""
        (begin, first), (end, last) = self._readings[0], self._readings[-1]
        return Rates(end - begin, change(first, last))

    def since_load(self) -> Change:
        """All that the counters hold."""
        return change(Reading(), self.last)
