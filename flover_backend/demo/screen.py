"""The demo's two faces while requests run: a live picture on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from flover_backend.channel import Iteration
from flover_backend.demo.chart import draw
from flover_backend.demo.traffic import Record, Traffic

MAX_HEIGHT = 24
CHART_HEIGHT = 12


class Screen(Protocol):
    """Shows the state of a run, again and again."""

    def __enter__(self) -> Screen:
        """Take the terminal."""
        ...

    def __exit__(self, *exception: object) -> None:
        """Give it back."""
        ...

    def update(self, traffic: Traffic, iterations: Sequence[Iteration]) -> None:
        """Show what is new."""
        ...


def make_screen(console: Console) -> Screen:
    """The face that suits the console."""
    return LiveScreen(console) if console.is_terminal else PlainScreen(console)


class PlainScreen:
    """A line for each arrival and each end, and the chart when all is over."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._start = time.monotonic()
        self._num_told = 0
        self._in_flight = 0

    def __enter__(self) -> PlainScreen:
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    def update(self, traffic: Traffic, iterations: Sequence[Iteration]) -> None:
        """Print arrivals and ends since the last update, in order of time."""
        events = _events(traffic.records)
        for when, change, text in events[self._num_told :]:
            self._in_flight += change
            self._print(f"{when - self._start:6.1f} s  {text} ({self._in_flight} in flight)")
        self._num_told = len(events)
        if traffic.num_ended == len(traffic.records):
            self._print("\nin-flight requests per iteration")
            for line in draw([record.num_live for record in iterations], 100, CHART_HEIGHT):
                self._print(line)

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class LiveScreen:
    """Progress bar, growing chart, incoming and finished requests, redrawn in place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._start = time.monotonic()
        self._live = Live(console=console, auto_refresh=False)

    def __enter__(self) -> LiveScreen:
        self._live.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.__exit__(None, None, None)

    def update(self, traffic: Traffic, iterations: Sequence[Iteration]) -> None:
        """Redraw."""
        self._live.update(self.picture(traffic, iterations), refresh=True)

    def picture(self, traffic: Traffic, iterations: Sequence[Iteration]) -> RenderableType:
        """What the terminal shows: as wide as it is, and no higher."""
        height = max(8, min(MAX_HEIGHT, self._console.height - 2))
        chart_width = self._console.width // 2
        list_width = (self._console.width - chart_width) // 2
        row = Table.grid()
        row.add_row(
            _chart_panel(iterations, chart_width, height),
            _list_panel("incoming", _incoming(traffic.records), list_width, height),
            _list_panel("finished", _finished(traffic.records), list_width, height),
        )
        return Group(self._progress(traffic), row)

    def _progress(self, traffic: Traffic) -> RenderableType:
        seconds = time.monotonic() - self._start
        line = Table.grid(padding=(0, 1), expand=True)
        line.add_column(ratio=1)
        line.add_column(no_wrap=True)
        state = f"{traffic.num_ended}/{len(traffic.records)} answered  {traffic.num_tokens} tokens  {seconds:.1f} s"
        line.add_row(ProgressBar(total=len(traffic.records), completed=traffic.num_ended), state)
        return line


def _events(records: Sequence[Record]) -> list[tuple[float, int, str]]:
    """(time, change of the number in flight, text) of all arrivals and ends so far, in order of time."""
    sent = [(r.sent, 1, f"request {r.number} arrives: {r.arrival.question}") for r in records if r.sent is not None]
    ended = [(r.ended, -1, f"request {r.number} is finished: {len(r.token_times)} tokens") for r in records if r.ended]
    return sorted([*sent, *ended])


def _chart_panel(iterations: Sequence[Iteration], width: int, height: int) -> Panel:
    lines = draw([record.num_live for record in iterations], width - 4, height - 2)
    now = f", now {iterations[-1].num_live}" if iterations else ""
    chart = Text("\n".join(lines), style="cyan", no_wrap=True)
    return Panel(chart, title=f"in flight per iteration{now}", width=width, height=height)


def _list_panel(title: str, lines: list[str], width: int, height: int) -> Panel:
    """The last lines that fit."""
    text = Text("\n".join(lines[2 - height :]), no_wrap=True, overflow="ellipsis")
    return Panel(text, title=title, width=width, height=height)


def _incoming(records: Sequence[Record]) -> list[str]:
    return [f"{record.number:2} {record.arrival.question}" for record in records if record.sent is not None]


def _finished(records: Sequence[Record]) -> list[str]:
    over = [(record.ended, record) for record in records if record.ended is not None]
    return [f"{r.number:2} {len(r.token_times):3} tokens" for _, r in sorted(over, key=lambda pair: pair[0])]
