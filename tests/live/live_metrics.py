"""What a live server's /metrics say of the model `flover`: single values, differences, and waits for both."""

from __future__ import annotations

import time
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


def num_ended(scrape: Scrape) -> float:
    """Accepted requests that are over. The last counter of a snapshot that is written."""
    return scrape[series("vllm:e2e_request_latency_seconds_count")]


def wait_settled(server: LiveServer, ended: float | None = None) -> Scrape:
    """The scrape of an idle server whose last snapshot is written, `ended` requests in it.

    A snapshot is written series by series and a moment after its requests have ended: a scrape may meet it half way.
    """
    last: list[dict[str, float]] = [{}]

    def is_settled() -> bool:
        previous, last[0] = last[0], ours(server.metrics())
        time.sleep(0.1 if ended is not None else 1.0)
        return previous == last[0] and is_idle(last[0]) and ended in (None, num_ended(last[0]))

    wait_for(is_settled, timeout_s=30)
    return last[0]


def ours(scrape: Scrape) -> dict[str, float]:
    return {name: number for name, number in scrape.items() if name.startswith(("flover_", "vllm:", "nv_trt_llm"))}


def wait_running(server: LiveServer, running: int, waiting: int = 0) -> None:
    wait_for(
        lambda: (
            (value(server, "flover_requests_running"), value(server, "flover_requests_waiting")) == (running, waiting)
        )
    )
