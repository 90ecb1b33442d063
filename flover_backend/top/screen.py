"""The picture on a terminal: a panel for each model with its chart of rows, gauges, rates and latencies."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from flover_backend.demo.chart import bars_in, draw
from flover_backend.top.figures import Change, Spread
from flover_backend.top.history import History
from flover_backend.top.lines import duration, kv_share, rate

LEAST_HEIGHT, MOST_HEIGHT = 13, 20
"""Of a panel; the figures need the least."""
FIGURES_WIDTH = 52
LEAST_CHART_WIDTH = 16


def picture(
    console: Console, histories: Sequence[History], trouble: str | None, url: str, interval_s: float
) -> RenderableType:
    """All models that fit on the screen, and what is wrong."""
    room = console.height - 2
    height = max(LEAST_HEIGHT, min(MOST_HEIGHT, room // max(1, len(histories))))
    shown = histories[: max(1, room // height)]
    panels = [_panel(history, console.width, height, interval_s) for history in shown]
    more = len(histories) - len(shown)
    foot = Text(f"{url}  every {interval_s:g} s", style="dim", no_wrap=True, overflow="ellipsis")
    if more:
        foot.append(f"  {more} more: enlarge the terminal, or pick with --model")
    foot.append("  Ctrl-C ends")
    return Group(*panels, *([Text(trouble, style="bold red")] if trouble else []), foot)


def _panel(history: History, width: int, height: int, interval_s: float) -> Panel:
    info = history.last.info
    figures = Group(_gauges(history), Text(), _latencies(history))
    chart_width = min((width - 6) * 2 // 5, width - 6 - FIGURES_WIDTH)
    grid = Table.grid(padding=(0, 2))
    if chart_width >= LEAST_CHART_WIDTH:
        grid.add_row(_chart(history, chart_width, height - 2, interval_s), figures)
    else:
        grid.add_row(figures)
    kind = [info.get("dtype", "?"), f"{info.get('max_model_len', '?')} tokens", f"reorder {info.get('reorder', '?')}"]
    title = f"[bold]{escape(history.key.model)}[/] version {history.key.version}  [dim]{', '.join(kind)}[/]"
    return Panel(grid, title=title, title_align="left", height=height, width=width)


def _chart(history: History, width: int, height: int, interval_s: float) -> Text:
    scale_width = len(history.last.info.get("max_rows", "0"))
    num_bars = bars_in(width, scale_width)
    rows = list(history.rows)[-num_bars:]
    begin = f"{(len(rows) - 1) * interval_s:.0f} s ago"
    begin = begin if len(rows) > len(begin) + len(" now") else ""
    lines = draw(rows, width, height - 1, begin, "now", scale_width)
    return Text("\n".join([f"{'':>{scale_width + 2}}rows in flight", *lines]), style="cyan", no_wrap=True)


def _gauges(history: History) -> Table:
    last, rates = history.last, history.window()
    what = rates.change
    used, free = last.value("flover_kv_blocks_used"), last.value("flover_kv_blocks_free")
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(no_wrap=True)
    running, waiting = last.value("flover_requests_running"), last.value("flover_requests_waiting")
    tokens = last.value("flover_waiting_tokens")
    table.add_row("rows", f"{history.rows[-1]:.1f} of {last.info.get('max_rows', '?')}  ({running:.0f} running)")
    table.add_row("queue", f"{waiting:.0f} waiting" + (f", {tokens:.0f} prompt tokens" if waiting else ""))
    bar = ProgressBar(total=max(1.0, used + free), completed=used, width=10, complete_style="cyan")
    kv = Table.grid(padding=(0, 1))
    kv.add_row(bar, f"{kv_share(history):.0%}, {used:.0f} of {used + free:.0f} blocks")
    table.add_row("KV in use", kv)
    decode, prefill = rate(rates.per_second(what.decode_tokens)), rate(rates.per_second(what.prefill_tokens))
    table.add_row("tokens/s", f"{decode}  (prefill {prefill})")
    table.add_row("ended", _ended(what, rates.seconds))
    return table


def _ended(what: Change, seconds: float) -> str:
    counts = [f"{count} {reason}" for reason, count in what.finished.items()]
    counts += [f"{count} refused: {reason}" for reason, count in what.rejected.items()]
    if what.preemptions:
        counts.append(f"{what.preemptions} preempted")
    return f"{', '.join(counts) or 'none'}  (in {seconds:.0f} s)"


def _latencies(history: History) -> Table:
    what = history.window().change
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("latency", style="bold", header_style="dim", no_wrap=True)
    for name in ("median", "95 %", "99 %", "mean"):
        table.add_column(name, justify="right", no_wrap=True, min_width=7)
    for name, spread in {
        "first token": what.time_to_first_token,
        "inter-token": what.inter_token_latency,
        "in the queue": what.queue_time,
        "whole answer": what.e2e_latency,
    }.items():
        table.add_row(name, *_cells(spread))
    return table


def _cells(spread: Spread | None) -> list[str]:
    if spread is None:
        return ["-"] * 4
    return [duration(value, spread) for value in (spread.p50, spread.p95, spread.p99, spread.mean)]
