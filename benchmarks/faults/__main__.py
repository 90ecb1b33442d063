"""`python -m benchmarks.faults`: injects faults into servers of its own and tells what they cost, against the bars.

Exit status: 0 every bar held; 1 one was missed, or nothing could be measured; 2 the command line is wrong.
"""

from __future__ import annotations

import enum
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
import typer
from rich.console import Console

from benchmarks.faults.deadlines import Deadlines, measure_deadlines
from benchmarks.faults.deaths import Deaths, measure_deaths
from benchmarks.faults.overload import Overload, measure_overload
from benchmarks.faults.page import write_page
from benchmarks.faults.rows import Row, markdown
from benchmarks.faults.silent import Silent, measure_silent
from flover_backend.bench_engine.machine import describe_machine, in_words
from flover_backend.cli_exit import exit_status
from flover_backend.engine.threads import num_compute_threads

Tell = Callable[[str], None]
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


BUSY = 0.3
"""Load average by core, before anything is measured."""


class Part(enum.Enum):
    """What can be measured by itself."""

    OVERLOAD = "overload"
    SILENT = "silent"
    DEADLINES = "deadlines"
    DEATHS = "deaths"


def main(arguments: list[str] | None = None) -> None:
    """Entry point."""
    with exit_status("faults"):
        app(arguments, prog_name="python -m benchmarks.faults")


@app.command()
def faults(
    *,
    part: Annotated[list[Part] | None, typer.Option(help="One of them; again for more.", show_default="all")] = None,
    out: Annotated[Path, typer.Option(help="Folder for faults.json and faults.md.")] = Path("out/faults"),
    repeats: Annotated[int, typer.Option(min=1, help="Of each measurement.")] = 3,
    seed: Annotated[int, typer.Option(help="Prompts and lengths follow from it.")] = 1,
    write_docs: Annotated[bool, typer.Option(help="Put the table into docs/reliability.md too.")] = False,
) -> None:
    """Measure what faults cost."""
    console = Console()
    started = time.monotonic()

    def tell(line: str) -> None:
        console.print(f"{time.monotonic() - started:6.1f} s  {line}", markup=False, highlight=False, soft_wrap=True)

    rows: list[Row] = []
    leave_a_core_to_the_clients()
    facts = describe_machine(torch.device("cpu")) | {
        "load": os.getloadavg()[0],
        "engine_threads": os.environ["OMP_NUM_THREADS"],
    }
    if facts["load"] > BUSY * facts["cpus"]:
        tell(f"NOTE: the machine is busy (load {facts['load']:.1f} on {facts['cpus']} cores): figures will be too high")
    for one in part or list(Part):
        tell(f"{one.value} ...")
        command = f"python -m benchmarks.faults --part {one.value}"
        rows += [msgspec.structs.replace(row, command=command) for row in _measured(one, repeats, seed, tell)]
        _save(rows, facts, out)
    console.print(markdown(rows), markup=False, highlight=False, soft_wrap=True)
    tell(f"saved: {out}")
    if write_docs:
        write_page("faults", report(rows, facts))
    if not all(row.is_held for row in rows):
        raise typer.Exit(1)


def leave_a_core_to_the_clients() -> None:
    """Engines that this process's servers start compute with a thread fewer than they would, unless the caller said.

    Clients run on the server's machine here, and more of them as the rate grows: on cores that the engine computes on
    too, its tokens/s would fall by what the clients take.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, num_compute_threads() - 1)))


def _measured(part: Part, repeats: int, seed: int, tell: Tell) -> list[Row]:
    match part:
        case Part.OVERLOAD:
            return measure_overload(Overload(repeats=repeats, seed=seed), tell)
        case Part.SILENT:
            return measure_silent(Silent(repeats=repeats, seed=seed), tell)
        case Part.DEADLINES:
            return measure_deadlines(Deadlines(repeats=repeats, seed=seed), tell)
        case Part.DEATHS:
            return measure_deaths(Deaths(repeats=repeats, seed=seed), tell)


def _save(rows: list[Row], facts: dict[str, Any], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    content = {"machine": facts, "rows": msgspec.to_builtins(rows)}
    (out / "faults.json").write_text(json.dumps(content, indent=1) + "\n")
    (out / "faults.md").write_text(report(rows, facts))


def report(rows: list[Row], facts: dict[str, Any]) -> str:
    """The table, and where it was measured."""
    threads = f"the engine computes on {facts['engine_threads']} of the cores"
    where = f"{facts['time']}, {in_words(facts)}; {threads}; load average before the start: {facts['load']:.1f}"
    return f"{markdown(rows)}\nMedians of the repeats, and their range. {where}.\n"


if __name__ == "__main__":
    main()
