"""`flover demo` from start to end: model, server, requests, answers, figures, picture; and nothing left behind."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from flover_backend.client import FloverClient
from flover_backend.config import ModelJson
from flover_backend.demo.figures import figures
from flover_backend.demo.monitor import IterationMonitor
from flover_backend.demo.picture import save_picture
from flover_backend.demo.report import print_answers, table
from flover_backend.demo.schedule import Arrival, make_schedule, parse_lengths
from flover_backend.demo.screen import Screen, make_screen
from flover_backend.demo.traffic import Traffic
from flover_backend.importer.progress import console_progress
from flover_backend.importer.smollm2 import fetch_smollm2
from flover_backend.lifeline import adopt_orphans, end_children
from flover_backend.serve import LEFTOVERS_TIMEOUT_S
from flover_backend.server import ServerOptions, TritonServer
from flover_backend.stop_signals import StopSignals

NAME = "smollm2"
FRONTS = 2
REDRAW_S = 0.2


@dataclass(frozen=True)
class DemoOptions:
    """What the command line says."""

    requests: int
    interval_ms: float | None
    lengths: str | None
    picture: Path

    def schedule(self) -> list[Arrival]:
        """Raises `InvalidRequest`."""
        gap = None if self.interval_ms is None else self.interval_ms / 1000
        return make_schedule(self.requests, gap, parse_lengths(self.lengths) if self.lengths else None)


def demo(options: DemoOptions) -> None:
    """Run it. Raises `Stopped` after SIGINT or SIGTERM, `FloverError` when something fails; either way all is ended."""
    console = Console()
    schedule = options.schedule()
    with console_progress(console) as progress:
        model_dir = fetch_smollm2(progress=lambda what, *amounts: progress(f"SmolLM2: {what}", *amounts))
    signals = StopSignals()
    adopt_orphans()
    traffic = Traffic(schedule, model_dir)
    config = ModelJson(model=str(model_dir))
    server = TritonServer(ServerOptions(config, NAME, FRONTS, show=lambda line: console.print(line, markup=False)))
    try:
        _start(server, signals, console)
        with IterationMonitor(server.pid) as monitor:
            with make_screen(console) as screen:
                asyncio.run(_watch(server.grpc_url, traffic, monitor, screen, signals))
            _show(console, traffic, monitor, options.picture)
    finally:
        console.print("stopping the server ...", highlight=False)
        server.stop()
        end_children(LEFTOVERS_TIMEOUT_S)


def _start(server: TritonServer, signals: StopSignals, console: Console) -> None:
    what = f"starting a Triton server with SmolLM2-135M-Instruct behind {FRONTS} fronts ..."
    console.print(what, highlight=False)
    with console.status(what):
        server.start()
        server.wait_ready(signals.check)


async def _watch(url: str, traffic: Traffic, monitor: IterationMonitor, screen: Screen, signals: StopSignals) -> None:
    """Send everything, and redraw until all is answered. Leaving early cancels what is in flight."""
    async with FloverClient(url, NAME) as client:
        sending = asyncio.create_task(traffic.run(client))
        try:
            while not sending.done():
                signals.check()
                await asyncio.wait([sending], timeout=REDRAW_S)
                await asyncio.to_thread(monitor.read)
                screen.update(traffic, monitor.iterations)
            sending.result()
        finally:
            sending.cancel()
            await asyncio.wait([sending])


def _show(console: Console, traffic: Traffic, monitor: IterationMonitor, picture: Path) -> None:
    print_answers(console, traffic.records)
    console.print(table(figures(traffic.records, monitor.iterations)))
    save_picture(picture, traffic.records, monitor.iterations)
    console.print(f"chart: {picture}", soft_wrap=True, highlight=False)
