"""How the suite tells how far it is: a bar on a terminal, plain lines elsewhere. Knows nothing of what runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

TICK_S = 0.2


class Told:
    """Lines, and a bar of estimated seconds where there is a terminal."""

    def __init__(self, console: Console, bar: Progress | None) -> None:
        self._console, self._bar = console, bar
        self._task = None if bar is None else bar.add_task("", total=None)
        self._done, self._total = 0.0, 0.0

    def __call__(self, line: str) -> None:
        """One line, above the bar."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def expect(self, seconds: float) -> None:
        """What all that is left is estimated to take."""
        self._total = self._done + seconds
        self._show("", self._done)

    @contextmanager
    def step(self, title: str, seconds: float) -> Iterator[None]:
        """The bar moves on by the clock, as far as the estimate goes; then to it."""
        stop, started = threading.Event(), time.monotonic()

        def move() -> None:
            while not stop.wait(TICK_S):
                self._show(title, self._done + min(seconds, time.monotonic() - started))

        mover = threading.Thread(target=move, daemon=True) if self._bar is not None else None
        self._show(title, self._done)
        if mover:
            mover.start()
        try:
            yield
        finally:
            stop.set()
            if mover:
                mover.join()
            self._done += seconds
            self._show(title, self._done)

    def _show(self, title: str, done: float) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=title.replace("[", r"\["), completed=done, total=self._total)


@contextmanager
def progress(console: Console | None = None) -> Iterator[Told]:
    """For one run of the suite."""
    console = console or Console()
    if not console.is_terminal:
        yield Told(console, None)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        yield Told(console, bar)
