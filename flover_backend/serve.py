"""`flover serve`: a server in the foreground, until a signal or its own end; then drain, stop, leave nothing."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

from flover_backend.errors import FloverError
from flover_backend.lifeline import adopt_orphans, end_children
from flover_backend.observer import EngineObserver, FoundEngine, find_engines
from flover_backend.server import ServerOptions, TritonServer
from flover_backend.stop_signals import Stopped, StopSignals

POLL_S = 0.2
LEFTOVERS_TIMEOUT_S = 10.0
CUT_TIMEOUT_S = 5.0


def serve(options: ServerOptions) -> None:
    """Serve until SIGINT or SIGTERM; a second one cuts the drain short. Raises `ConfigError`, `ServerFailed`."""
    signals = StopSignals()
    adopt_orphans()
    server = TritonServer(options)
    try:
        server.start()
        server.wait_ready(signals.check)
        print(ready_line(server), flush=True)
        while not signals.wait(POLL_S):
            server.check_running()
        drain(server.pid, options.config.drain_timeout_s, give_up=lambda: signals.count > 1)
    except Stopped:
        tell("stopped while it was loading")
    finally:
        server.stop()
        end_children(LEFTOVERS_TIMEOUT_S)


def tell(text: str) -> None:
    """A line for the operator."""
    print(f"flover: {text}", file=sys.stderr, flush=True)


def ready_line(server: TritonServer) -> str:
    """The one line on standard output."""
    return (
        f"flover: model {server.options.name} is ready: gRPC {server.grpc_url}, HTTP {server.http_url}, "
        f"metrics {server.metrics_url}"
    )


def drain(server_pid: int, timeout_s: float, give_up: Callable[[], bool]) -> None:
    """Let what runs finish in every engine of the server, for `timeout_s` or until `give_up`; the rest is ended."""
    engines = find_engines(server_pid)
    draining = [_in_thread(engine, timeout_s) for engine in engines]
    while any(thread.is_alive() for thread in draining) and not give_up():
        time.sleep(0.02)
    cutting = [_in_thread(engine, 0) for engine, thread in zip(engines, draining, strict=True) if thread.is_alive()]
    for thread in cutting:
        thread.join(CUT_TIMEOUT_S)


def _in_thread(engine: FoundEngine, timeout_s: float) -> threading.Thread:
    thread = threading.Thread(target=_drain_engine, args=(engine, timeout_s), daemon=True)
    thread.start()
    return thread


def _drain_engine(engine: FoundEngine, timeout_s: float) -> None:
    try:
        with EngineObserver.connect(engine, "flover serve") as observer:
            done = observer.drain(timeout_s)
            tell(f"drained: {done.finished} requests finished, {done.ended} were ended")
    except (FloverError, OSError) as error:
        tell(f"cannot drain: {error}")
