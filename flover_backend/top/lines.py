"""Figures as text: a line a model for a log or a pipe, and JSON for a program."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime

import msgspec

from flover_backend.top.figures import Spread
from flover_backend.top.history import History


def line(history: History) -> str:
    """What a look at one model shows, for those who keep it."""
    rates, last = history.window(), history.last
    what = rates.change
    parts = [
        f"rows {history.rows[-1]:.1f}/{last.info.get('max_rows', '?')}",
        f"running {last.value('flover_requests_running'):.0f}",
        f"waiting {last.value('flover_requests_waiting'):.0f}",
        f"kv {kv_share(history):.0%}",
        f"tokens/s {rate(rates.per_second(what.decode_tokens))}",
        f"prefill/s {rate(rates.per_second(what.prefill_tokens))}",
        f"first token {three(what.time_to_first_token)}",
        f"inter-token {three(what.inter_token_latency)}",
    ]
    return f"{datetime.now():%H:%M:%S} {history.key}  " + "  ".join(parts)


def as_json(url: str, histories: list[History]) -> str:
    """One line: the gauges, what happened in the window, and since each model was loaded. Latencies in seconds."""
    models = [_model(history) for history in histories]
    return msgspec.json.encode({"url": url, "time": datetime.now().astimezone(), "models": models}).decode()


def _model(history: History) -> dict[str, object]:
    last, rates = history.last, history.window()
    what = rates.change
    return {
        **asdict(history.key),
        **{name: int(text) if text.isdigit() else text for name, text in last.info.items()},
        "rows": history.rows[-1],
        "running": int(last.value("flover_requests_running")),
        "waiting": int(last.value("flover_requests_waiting")),
        "waiting_tokens": int(last.value("flover_waiting_tokens")),
        "kv_blocks_used": int(last.value("flover_kv_blocks_used")),
        "kv_blocks_free": int(last.value("flover_kv_blocks_free")),
        "kv_blocks_used_max": int(last.value("flover_kv_blocks_used_max")),
        "kv_bytes_mapped": int(last.value("flover_kv_bytes_mapped")),
        "window": {
            "seconds": rates.seconds,
            "decode_tokens_per_s": rates.per_second(what.decode_tokens),
            "prefill_tokens_per_s": rates.per_second(what.prefill_tokens),
            "iterations_per_s": rates.per_second(what.iterations),
            **asdict(what),
        },
        "since_load": asdict(history.since_load()),
    }


def kv_share(history: History) -> float:
    """The used share of the KV buffer's blocks, 0 to 1."""
    used = history.last.value("flover_kv_blocks_used")
    return used / max(1.0, used + history.last.value("flover_kv_blocks_free"))


def rate(per_second: float | None) -> str:
    """A figure per second, or that there is none yet."""
    return "-" if per_second is None else f"{per_second:.1f}"


def three(spread: Spread | None) -> str:
    """Median, 95th and 99th percentile."""
    return (
        "-" if spread is None else "/".join(duration(value, spread) for value in (spread.p50, spread.p95, spread.p99))
    )


def duration(seconds: float, spread: Spread) -> str:
    """With a sign when it lies beyond the last bucket."""
    sign = ">" if seconds >= spread.last_bound else ""
    return f"{sign}{seconds:.1f} s" if seconds >= 1 else f"{sign}{seconds * 1000:.3g} ms"
