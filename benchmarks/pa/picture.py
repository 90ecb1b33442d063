"""One experiment as a PNG: requests in flight and tokens/s over time, and how its latencies are spread."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmarks.pa.export import Request
from benchmarks.pa.figures import Values, in_flight, inter_token
from benchmarks.pa.report import Result, number

SENT, STREAMING, RATE = "#f58518", "#4c78a8", "#54a24b"
BINS = 80
"""Of the time axis, for tokens/s."""


def save_picture(path: Path, result: Result) -> None:
    """Write `path`."""
    with mpl.rc_context({"font.size": 10, "axes.spines.right": False, "axes.spines.top": False}):
        figure = Figure(figsize=(11, 8), layout="constrained")
        FigureCanvasAgg(figure)
        whole = figure.add_gridspec(3, 3, height_ratios=[1.2, 0.9, 1])
        upper = figure.add_subplot(whole[0, :])
        _draw_in_flight(upper, result.requests)
        _draw_rate(figure.add_subplot(whole[1, :], sharex=upper), result)
        figures = result.figures
        for column, (title, values, spread) in enumerate(
            (
                ("time to first token", _first_tokens(result.requests), figures.first_token),
                ("inter-token latency", _inter_tokens(result.requests), figures.inter_token),
                ("request latency", _latencies(result.requests), figures.latency),
            )
        ):
            _draw_spread(figure.add_subplot(whole[2, column]), title, values * 1e3, spread)
        figure.suptitle(f"perf_analyzer: {result.words}; {figures.num_requests} requests, {figures.num_tokens} tokens")
        figure.savefig(path, dpi=130)


def _draw_in_flight(axes: Any, requests: Sequence[Request]) -> None:
    """All in flight, and below them those that already have their first token."""
    times, levels = _steps(in_flight(requests))
    axes.fill_between(times, levels, step="post", color=SENT, linewidth=0, label="sent, no token yet")
    start = min(request.sent for request in requests)
    streaming = [
        Request(int(request.times[0]), request.times[1:], request.tokens[1:], None, None)
        for request in requests
        if len(request.times) > 1
    ]
    if streaming:
        offset = (min(request.sent for request in streaming) - start) / 1e9
        times, levels = _steps([(when + offset, level) for when, level in in_flight(streaming)])
        axes.fill_between(times, levels, step="post", color=STREAMING, linewidth=0, label="tokens are streaming")
    axes.set_ylabel("requests in flight")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(0, max(level for _, level in in_flight(requests)) * 1.25 + 0.5)
    axes.legend(loc="upper right", ncols=2, frameon=False)
    axes.grid(axis="y", alpha=0.3)
    axes.tick_params(labelbottom=False)


def _draw_rate(axes: Any, result: Result) -> None:
    start = min(request.sent for request in result.requests)
    times = np.concatenate([request.times - start for request in result.requests]) / 1e9
    tokens = np.concatenate([request.tokens for request in result.requests])
    end = max(float(times.max(initial=0)), 1e-9)
    counts, edges = np.histogram(times, bins=BINS, range=(0, end), weights=tokens)
    axes.stairs(counts / (end / BINS), edges, fill=True, color=RATE, alpha=0.8)
    mean = result.figures.tokens_per_s
    axes.axhline(mean, color="#333333", linewidth=0.8, linestyle="--")
    axes.set_title(f"{number(mean)} tokens/s over the run", fontsize=10, loc="right")
    axes.set_xlim(0, end)
    axes.set_ylim(0, max(float((counts / (end / BINS)).max()), mean) * 1.2)
    axes.set_ylabel("tokens/s")
    axes.set_xlabel("seconds after the first request")
    axes.grid(axis="y", alpha=0.3)


def _draw_spread(axes: Any, title: str, values: Values, spread: Any) -> None:
    """The share of values up to each time, with three percentiles."""
    axes.set_title(f"{title}, ms", fontsize=10)
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.grid(alpha=0.3)
    if not len(values):
        return
    ordered = np.sort(values)
    axes.ecdf(ordered, color=STREAMING)
    for share, value in ((0.5, spread.p50), (0.9, spread.p90), (0.99, spread.p99)):
        axes.plot(value * 1e3, share, "o", color=SENT, markersize=4)
    marks = "\n".join(f"{name} {number(value * 1e3)}" for name, value in _marks(spread))
    axes.text(0.97, 0.06, marks, transform=axes.transAxes, ha="right", va="bottom", fontsize=9)
    axes.set_xlim(0, max(spread.p99 * 1.25e3, 1e-6))


def _marks(spread: Any) -> list[tuple[str, float]]:
    return [("p50", spread.p50), ("p90", spread.p90), ("p99", spread.p99), ("worst", spread.most)]


def _steps(series: Sequence[tuple[float, int]]) -> tuple[list[float], list[int]]:
    return [when for when, _ in series], [level for _, level in series]


def _first_tokens(requests: Sequence[Request]) -> Values:
    return np.array([(int(r.times[0]) - r.sent) / 1e9 for r in requests if len(r.times)])


def _inter_tokens(requests: Sequence[Request]) -> Values:
    return np.concatenate([np.empty(0), *(inter_token(request) for request in requests)])


def _latencies(requests: Sequence[Request]) -> Values:
    return np.array([(r.ended - r.sent) / 1e9 for r in requests if len(r.times)])
