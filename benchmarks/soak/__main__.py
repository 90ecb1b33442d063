"""`python -m benchmarks.soak`: exit status 0 when nothing was lost and nothing grew, 1 otherwise, 2 for a bad flag."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from benchmarks.faults.page import write_page
from benchmarks.soak.ledger import summed
from benchmarks.soak.run import Asked, Result, Soak
from flover_backend.bench_engine.machine import describe_machine, in_words
from flover_backend.cli_exit import exit_status

SHOWN_PROBLEMS = 20
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def main(arguments: list[str] | None = None) -> None:
    """Entry point."""
    with exit_status("soak"):
        app(arguments, prog_name="python -m benchmarks.soak")


@app.command()
def soak(
    *,
    minutes: Annotated[float, typer.Option(min=0.1, help="How long to go on starting rounds.")] = 30.0,
    seed: Annotated[int, typer.Option(help="All requests follow from it.")] = 1,
    faults: Annotated[bool, typer.Option(help="Kill, hang, reload and kill clients, one a round.")] = True,
    rate: Annotated[float, typer.Option(min=0.1, help="Requests a second, Poisson.")] = 5.0,
    burst: Annotated[int, typer.Option(min=0, help="Requests at once in each round, beyond rows and queue.")] = 40,
    out: Annotated[Path, typer.Option(help="Folder for the server's log and soak.json.")] = Path("out/soak"),
    write_docs: Annotated[bool, typer.Option(help="Put the figures into docs/reliability.md too.")] = False,
) -> None:
    """Serve mixed traffic with cancels, bad requests, overload and faults; account for every accepted request."""
    console = Console()
    asked = Asked(minutes, seed, faults, rate, burst, out)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        _tick(progress, minutes * 60)
        result = Soak(asked, lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True)).run()
    console.print(_table(result))
    for problem in result.all_problems[:SHOWN_PROBLEMS]:
        console.print(f"PROBLEM {problem}", markup=False, highlight=False, soft_wrap=True)
    _save(result, asked)
    console.print(f"saved: {out}", markup=False, highlight=False, soft_wrap=True)
    if write_docs:
        write_page("soak", _markdown(result, asked))
    if result.all_problems:
        raise typer.Exit(1)


def _tick(progress: Progress, seconds: float) -> None:
    """Move the bar while the main thread waits for a round."""
    task, started = progress.add_task("soak", total=seconds), time.monotonic()

    def move() -> None:
        while not progress.finished:
            progress.update(task, completed=time.monotonic() - started)
            time.sleep(0.5)

    if not progress.disable:
        threading.Thread(target=move, daemon=True).start()


def _table(result: Result) -> Table:
    ledger, held = result.ledger, result.held
    shown = Table("what", "figure")
    shown.add_row("rounds", f"{len(held)} in {result.seconds:.0f} s")
    shown.add_row("faults", ", ".join(f"{count} x {fault.value}" for fault, count in result.faults.items()))
    shown.add_row("requests", f"{sum(ledger.outcomes.values())}: {summed(ledger.outcomes.items())}")
    shown.add_row("kinds", ", ".join(f"{count} {kind.value}" for kind, count in ledger.kinds.items()))
    shown.add_row("accepted", ledger.balance)
    if held:
        shown.add_row("held after the first round", held[0].in_words())
        shown.add_row("held after the last", held[-1].in_words())
    shown.add_row("problems", str(len(result.all_problems)))
    return shown


def _markdown(result: Result, asked: Asked) -> str:
    """For the page: each fault, and below what became of the requests."""
    ledger, command = result.ledger, f"`python -m benchmarks.soak --minutes {asked.minutes:g} --seed {asked.seed}`"
    problems = f"{len(result.all_problems)} problems" if result.all_problems else "nothing"
    lines = ["| fault | injected | lost | command |", "| --- | --- | --- | --- |"]
    lines += [f"| {fault.value} | {count} times | {problems} | {command} |" for fault, count in result.faults.items()]
    facts = describe_machine(torch.device("cpu"))
    return "\n".join(
        [
            *lines,
            "",
            f"{sum(ledger.outcomes.values())} requests in {result.seconds / 60:.0f} minutes: "
            f"{summed(ledger.outcomes.items())}. {ledger.balance}.",
            f"Held after the third round: {result.held[min(2, len(result.held) - 1)].in_words()}; after the last: "
            f"{result.held[-1].in_words()}. {facts['time']}, {in_words(facts)}.",
            "",
        ]
    )


def _save(result: Result, asked: Asked) -> None:
    content = {
        "asked": {name: str(value) for name, value in asdict(asked).items()},
        "seconds": result.seconds,
        "faults": {fault.value: count for fault, count in result.faults.items()},
        "outcomes": {outcome.value: count for outcome, count in result.ledger.outcomes.items()},
        "accepted": result.ledger.accepted,
        "balance": result.ledger.balance,
        "held": [asdict(one) for one in result.held],
        "problems": result.all_problems,
    }
    (asked.folder / "soak.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
