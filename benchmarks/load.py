"""`python -m benchmarks.load`: the suite's own generator on a live server, with cancels, mixes and overload.

Exit status: 0 done, some requests refused or not; 1 an error, told in words, or every request failed; 2 the command
line is wrong.
"""

from __future__ import annotations

import collections
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.pa.errors import MeasurementFailed
from benchmarks.pa.inputs import Lengths, parse_lengths
from benchmarks.pa.run import Target
from benchmarks.suite.layers.client import generate
from benchmarks.suite.load.calls import Mix, calls_of
from benchmarks.suite.load.generator import default_processes
from benchmarks.suite.result import RequestResult, Run
from benchmarks.suite.workload import BenchRequest, Workload
from benchmarks.suite.workloads import chat_sweep, data, prompt_ids
from flover_backend.cli_exit import exit_status

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def main(arguments: list[str] | None = None) -> None:
    """Entry point."""
    with exit_status("load"):
        app(arguments, prog_name="python -m benchmarks.load")


@app.command()
def load(
    *,
    url: Annotated[str, typer.Option(help="gRPC address of the server.")] = "127.0.0.1:8001",
    name: Annotated[str, typer.Option(help="Triton's name of the model.")] = "flover",
    header: Annotated[list[str] | None, typer.Option(help="NAME:VALUE, sent with every call.")] = None,
    workload: Annotated[
        str | None,
        typer.Option(
            help="mix, sweep, cpu, triton: a chat mix of the suite, at --rate; in place of lengths and number."
        ),
    ] = None,
    rate: Annotated[float, typer.Option(help="Requests a second, Poisson; 0: all at once.")] = 8.0,
    requests: Annotated[int, typer.Option(min=1, help="How many, without --workload.")] = 64,
    prompt_tokens: Annotated[str, typer.Option(help="Length of each prompt, or LOW:HIGH.")] = "8",
    output_tokens: Annotated[str, typer.Option(help="Length of each answer, or LOW:HIGH.")] = "32",
    vocab_size: Annotated[int, typer.Option(min=4, max=2**31, help="Random token ids are below it.")] = 1000,
    cancel_share: Annotated[float, typer.Option(help="Share of requests cancelled after some tokens, 0 to 1.")] = 0.0,
    whole_share: Annotated[float, typer.Option(help="Share answered in one response, 0 to 1.")] = 0.0,
    processes: Annotated[
        int | None, typer.Option(min=1, max=64, help="Of the generator.", show_default="one for four cores")
    ] = None,
    seed: Annotated[int, typer.Option(help="Prompts, lengths, gaps and cancels follow from it.")] = 1,
    json: Annotated[Path | None, typer.Option(help="Write each request's times there.")] = None,
) -> None:
    """Send requests to a server that runs already, and show what they saw.

    Requests that the server refuses are counted, and the others go on.
    """
    console = Console()
    _check_writable(json)
    asked = _workload(workload, rate, requests, prompt_tokens, output_tokens, vocab_size, seed)
    mix = Mix(cancel_share, whole_share, seed)
    count = processes or default_processes()
    console.print(f"{len(asked.requests)} requests over {asked.requests[-1].at:.1f} s from {count} processes to {url}")
    run = generate(Target(url, name, tuple(_checked(header or []))), asked, "triton", name, count, mix)
    console.print(_table(run, asked, [call.streams for call in calls_of(asked, mix)]))
    for text, times in collections.Counter(r.error for r in run.requests if r.error).most_common(5):
        console.print(f"{times} x {text}", markup=False, highlight=False, soft_wrap=True)
    if json:
        json.write_bytes(msgspec.json.format(msgspec.json.encode(run)))
        console.print(f"saved: {json}", soft_wrap=True, highlight=False)
    if all(request.error for request in run.requests):
        raise MeasurementFailed("every request failed: there is nothing to measure")


def _check_writable(json: Path | None) -> None:
    """Before the load, not after it."""
    if json is None:
        return
    try:
        json.parent.mkdir(parents=True, exist_ok=True)
        with json.open("ab"):
            pass
    except OSError as error:
        raise MeasurementFailed(f"--json is {json}: {error.strerror}; give a file that can be written") from None


def _checked(headers: list[str]) -> list[str]:
    if any(":" not in header for header in headers):
        raise MeasurementFailed("--header is NAME:VALUE; one of them has no colon")
    return headers


def _workload(
    chat: str | None, rate: float, count: int, prompt: str, output: str, vocab_size: int, seed: int
) -> Workload:
    if not 0 <= rate < float("inf") or (chat and not rate):
        raise MeasurementFailed(
            f"--rate is {rate:g}; allowed: a finite number above 0, or 0 for a burst without --workload"
        )
    if chat:
        if chat not in data().chat:
            raise MeasurementFailed(f"--workload is {chat!r}; allowed: {', '.join(data().chat)}")
        return chat_sweep(chat, vocab_size, [rate])[0]
    source = random.Random(seed)
    prompts, outputs = parse_lengths(prompt, "--prompt-tokens"), parse_lengths(output, "--output-tokens")
    return poisson(count, rate, prompts, outputs, vocab_size, source)


def poisson(
    count: int, rate: float, prompts: Lengths, outputs: Lengths, vocab_size: int, source: random.Random
) -> Workload:
    """Uniform lengths at Poisson times of `rate` a second; all at once for 0. The first request is at 0."""
    ids = prompt_ids([prompts.draw(source) for _ in range(count)], vocab_size, source.getrandbits(32))
    at, made = 0.0, []
    for one in ids:
        made.append(BenchRequest(at, one, outputs.draw(source)))
        at += source.expovariate(rate) if rate else 0.0
    facts = {"num_requests": count, "rate": rate}
    return Workload(f"poisson-{rate:g}" if rate else f"burst-{count}", "poisson", tuple(made), facts)


def _table(run: Run, asked: Workload, streams: Sequence[bool]) -> Table:
    """`streams`: of each request, whether its answer comes in pieces: only then is a first token seen."""
    pairs = zip(run.requests, asked.requests, strict=True)
    complete = [r for r, a in pairs if not r.error and r.new_tokens == a.new_tokens]
    begun = [r for r, many in zip(run.requests, streams, strict=True) if many and not r.error and r.new_tokens]
    failed = sum(bool(r.error) for r in run.requests)
    tokens = sum(r.new_tokens for r in run.requests)
    shown = Table("what", "figure")
    cut = len(run.requests) - len(complete) - failed
    shown.add_row("requests: complete, cancelled, failed", f"{len(complete)}, {cut}, {_failed(run)}")
    shown.add_row("seconds", f"{run.wall_s:.3f}")
    shown.add_row("tokens; a second", f"{tokens}; {tokens / run.wall_s:.0f}" if run.wall_s else f"{tokens}")
    shown.add_row("responses", f"{run.num_responses}")
    first = [(r.first - r.at) * 1e3 for r in begun]
    of_streams = "" if all(streams) else " (streamed requests)"
    shown.add_row(f"first token p50, p99, ms{of_streams}", _spread(first, (50, 99)))
    shown.add_row("latency, complete, p50, p99, ms", _spread([(r.end - r.at) * 1e3 for r in complete], (50, 99)))
    gaps = ", ".join(f"{run.gaps_ms[p]:.2f}" for p in ("p50", "p99") if run.gaps_ms)
    shown.add_row("gap between responses p50, p99, ms", gaps or "-")
    shown.add_row("sent late, most, ms", f"{max((r.sent - r.at) * 1e3 for r in run.requests):.1f}")
    return shown


def _failed(run: Run) -> str:
    codes = collections.Counter(_code(r) for r in run.requests if r.error)
    return " ".join(f"{code} {times}" for code, times in sorted(codes.items())) or "0"


def _code(request: RequestResult) -> str:
    return request.error.partition(":")[0]


def _spread(values: list[float], percents: tuple[int, ...]) -> str:
    ordered = sorted(values)
    return ", ".join(f"{ordered[max(0, -(-len(ordered) * p // 100) - 1)]:.1f}" for p in percents) if ordered else "-"


if __name__ == "__main__":
    main()
