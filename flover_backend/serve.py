"""`flover serve`: a server in the foreground, until a signal or its own end; then drain, stop, leave nothing."""

from __future__ import annotations

import sys

from flover_backend.coming_engines import seconds_worth_waiting
from flover_backend.draining import ServerDrain
from flover_backend.lifeline import adopt_orphans, end_children
from flover_backend.observer import find_engines
from flover_backend.server import ServerOptions, ServerStopped, TritonServer
from flover_backend.stop_signals import Stopped, StopSignals

POLL_S = 0.2
LEFTOVERS_TIMEOUT_S = 10.0


def serve(options: ServerOptions) -> None:
    """Serve until SIGINT or SIGTERM; a second one cuts the drain short. Raises `ConfigError`, `ServerFailed`.

    A server that somebody else stopped, as `flover drain --stop` does, ends this in order too.
    """
    signals = StopSignals()
    adopt_orphans()
    server = TritonServer(options)
    try:
        server.start()
        server.wait_ready(signals.check)
        print(ready_line(server), flush=True)
        while not signals.wait(POLL_S):
            server.check_running()
        drain = ServerDrain(
            lambda: find_engines(server.pid),
            options.config.drain_timeout_s,
            "flover serve",
            tell,
            lambda: seconds_worth_waiting(server.pid),
        )
        drain.run(lambda: signals.count > 1)
    except Stopped:
        tell("stopped while it was loading")
    except ServerStopped as stopped:
        tell(str(stopped))
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
