"""How an import tells how far it is: a bar on a terminal, plain lines elsewhere. Knows nothing of what is imported."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

ReportProgress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


def silent(what: str, done: int, total: int) -> None:
    """Report nothing."""


@contextmanager
def console_progress(console: Console | None = None) -> Iterator[ReportProgress]:
    """A `ReportProgress` that shows a bar on a terminal, and otherwise a line when something begins and ends."""
    console = console or Console()
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bars:
        yield _Bars(bars)


class _Lines:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._begun: dict[str, None] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        if what not in self._begun:
            self._begun[what] = None
            self._print(f"{what} ...")
        if done >= total:
            self._print(f"{what}: done")

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class _Bars:
    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what.replace("[", r"\["), total=total)
        self._bars.update(self._tasks[what], completed=done, total=total)
