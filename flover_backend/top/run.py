"""`flover top`: looks at /metrics again and again and shows it, until Ctrl-C. Outlives the server that it watches."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass

from rich.console import Console
from rich.live import Live

from flover_backend.stop_signals import StopSignals
from flover_backend.top.exposition import ModelKey
from flover_backend.top.history import History
from flover_backend.top.lines import as_json, line
from flover_backend.top.scrape import ScrapeFailed, complete_url, scrape
from flover_backend.top.screen import picture

LEAST_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class TopOptions:
    """What the command line says."""

    url: str
    models: tuple[str, ...]
    interval_s: float
    window_s: float
    once: bool
    json: bool


class Watch:
    """What is known of the server's models. `look` scrapes; what cannot be scraped is `trouble`, never an exception."""

    def __init__(self, options: TopOptions) -> None:
        self.url = complete_url(options.url)
        self.trouble: str | None = None
        self.histories: dict[ModelKey, History] = {}
        self._options = options

    def look(self) -> None:
        """Take a reading of each model."""
        options = self._options
        try:
            readings = scrape(self.url, options.models, max(LEAST_TIMEOUT_S, options.interval_s))
        except ScrapeFailed as error:
            self.trouble = str(error)
            for history in self.histories.values():
                history.add_nothing()
            return
        now, self.trouble = time.monotonic(), None
        # A model that is gone and comes back starts anew: its counters do too.
        known = {key: self.histories.get(key) or History(key, options.window_s) for key in readings}
        for key, history in known.items():
            history.add(now, readings[key])
        self.histories = known

    @property
    def seen(self) -> list[History]:
        """In the order of names."""
        return list(self.histories.values())


def top(options: TopOptions) -> None:
    """Run it. Ctrl-C and SIGTERM end it. With `once` raises `ScrapeFailed` when there is nothing to show."""
    signals, watch, console = StopSignals(), Watch(options), Console()
    if options.once:
        _once(watch, signals, options)
    elif console.is_terminal and not options.json:
        _live(watch, signals, options, console)
    else:
        _plain(watch, signals, options)


def _once(watch: Watch, signals: StopSignals, options: TopOptions) -> None:
    """Two looks, for rates need a time to be over."""
    for _ in range(2):
        watch.look()
        if watch.trouble is not None:
            raise ScrapeFailed(watch.trouble)
        if len(watch.seen[0].rows) == 1 and signals.wait(options.interval_s):
            return
    _print(watch, options)


def _live(watch: Watch, signals: StopSignals, options: TopOptions, console: Console) -> None:
    with ExitStack() as stack:
        live = stack.enter_context(Live(console=console, auto_refresh=False, screen=True))
        while True:
            watch.look()
            shown = picture(console, watch.seen, watch.trouble, watch.url, options.interval_s)
            live.update(shown, refresh=True)
            if signals.wait(options.interval_s):
                return


def _plain(watch: Watch, signals: StopSignals, options: TopOptions) -> None:
    """A line for each look; a trouble is told once."""
    told: str | None = None
    while True:
        watch.look()
        if watch.trouble is None:
            _print(watch, options)
        elif watch.trouble != told:
            print(f"flover: {watch.trouble}", file=sys.stderr, flush=True)
        told = watch.trouble
        if signals.wait(options.interval_s):
            return


def _print(watch: Watch, options: TopOptions) -> None:
    if options.json:
        print(as_json(watch.url, watch.seen), flush=True)
        return
    for history in watch.seen:
        print(line(history), flush=True)
