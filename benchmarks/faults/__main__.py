"""`python -m benchmarks.faults`: injects faults into servers of its own and tells what they cost, against the bars.

Exit status: 0 every bar held; 1 one was missed, or nothing could be measured; 2 the command line is wrong.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from benchmarks.faults.overload import Overload, measure_overload
from benchmarks.faults.rows import Row, markdown
from flover_backend.errors import FloverError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def main(arguments: list[str] | None = None) -> None:
    """Entry point."""
    try:
        app(arguments, prog_name="python -m benchmarks.faults")
    except FloverError as error:
        print(f"faults: {error}", file=sys.stderr)
        sys.exit(1)


@app.command()
def faults(
    *,
    out: Annotated[Path, typer.Option(help="Folder for faults.json and faults.md.")] = Path("out/faults"),
    repeats: Annotated[int, typer.Option(min=1, help="Of each measurement.")] = 3,
    seed: Annotated[int, typer.Option(help="Prompts and lengths follow from it.")] = 1,
) -> None:
    """Measure what faults cost."""
    console = Console()
    started = time.monotonic()

    def tell(line: str) -> None:
        console.print(f"{time.monotonic() - started:6.1f} s  {line}", markup=False, highlight=False, soft_wrap=True)

    rows = measure_overload(Overload(repeats=repeats, seed=seed), tell)
    _save(rows, out)
    console.print(markdown(rows), markup=False, highlight=False, soft_wrap=True)
    if not all(row.is_held for row in rows):
        raise typer.Exit(1)


def _save(rows: list[Row], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    content = {"rows": msgspec.to_builtins(rows)}
    (out / "faults.json").write_text(json.dumps(content, indent=1) + "\n")
    (out / "faults.md").write_text(markdown(rows))


if __name__ == "__main__":
    main()
