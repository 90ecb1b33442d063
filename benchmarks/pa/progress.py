"""How far a run is: a bar on a terminal, a line now and then elsewhere.

perf_analyzer says nothing until it has ended; the server's count of the requests that it took says it instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from tritonclient.utils import InferenceServerException

from benchmarks.pa.modes import Load
from benchmarks.pa.probe import Probe

ASK_EVERY_S = 1.0
LINE_EVERY_S = 5.0


class _Count:
    """Requests that the server took since this was made, asked for once a second at most."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self._before = probe.num_accepted()
        self._asked_at = 0.0
        self.taken = 0

    def update(self, seconds: float) -> None:
        """`seconds`: since the run's start."""
        if seconds - self._asked_at < ASK_EVERY_S:
            return
        self._asked_at = seconds
        try:
            self.taken = self._probe.num_accepted() - self._before
        except InferenceServerException:
            return  # perf_analyzer will tell of a server that is gone


@contextmanager
def show_progress(console: Console, load: Load, probe: Probe) -> Iterator[Callable[[float], None]]:
    """What is yielded is called with the seconds so far, again and again."""
    count = _Count(probe)
    if not console.is_terminal:
        yield _lines(console, load, count)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[taken]}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task(load.words, total=load.num_requests, taken="")

        def tick(seconds: float) -> None:
            count.update(seconds)
            bars.update(task, completed=count.taken, taken=_taken(load, count))

        yield tick


def _lines(console: Console, load: Load, count: _Count) -> Callable[[float], None]:
    console.print(f"{load.words} ...", markup=False, highlight=False, soft_wrap=True)
    told_at = 0.0

    def tick(seconds: float) -> None:
        nonlocal told_at
        count.update(seconds)
        if seconds - told_at >= LINE_EVERY_S:
            told_at = seconds
            console.print(f"  {seconds:.0f} s, {_taken(load, count)}", markup=False, highlight=False, soft_wrap=True)

    return tick


def _taken(load: Load, count: _Count) -> str:
    total = f" of {load.num_requests}" if load.num_requests else ""
    return f"{count.taken}{total} requests sent"
