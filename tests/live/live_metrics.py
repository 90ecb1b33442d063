"""What a live server's /metrics say of the model `flover`: single values, differences, and waits for both."""

from __future__ import annotations

from collections.abc import Mapping

from live_server import LiveServer, wait_for

Scrape = Mapping[str, float]


def series(name: str, model: str = "flover", **labels: str) -> str:
    """A series as Triton writes it: `model` and `version` among the sorted labels."""
    inner = ",".join(
        f'{label}="{value}"' for label, value in sorted({"model": model, "version": "1", **labels}.items())
    )
    return f"{name}{{{inner}}}"


def value(server: LiveServer, name: str, **labels: str) -> float:
    return server.metrics()[series(name, **labels)]


def finished(server: LiveServer, reason: str) -> float:
    return value(server, "flover_requests_finished_total", reason=reason)


def is_idle(scrape: Scrape) -> bool:
    """Nobody has a row, nobody waits, no block is held."""
    names = ("flover_requests_running", "flover_requests_waiting", "flover_waiting_tokens", "flover_kv_blocks_used")
    return all(scrape[series(name)] == 0 for name in names)


def wait_idle(server: LiveServer) -> Scrape:
    """The scrape of an idle server."""
    wait_for(lambda: is_idle(server.metrics()), timeout_s=30)
    return server.metrics()


def wait_running(server: LiveServer, running: int, waiting: int = 0) -> None:
    wait_for(
        lambda: (
            (value(server, "flover_requests_running"), value(server, "flover_requests_waiting")) == (running, waiting)
        )
    )
