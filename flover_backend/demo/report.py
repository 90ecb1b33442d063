"""What the demo prints when all is answered: the answers and the table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flover_backend.demo.figures import Figures, Spread
from flover_backend.demo.traffic import Record


def print_answers(console: Console, records: Sequence[Record]) -> None:
    """Each question with its answer; one that was cut at its token limit ends in an ellipsis."""
    for record in records:
        answer = " ".join(record.text.split()) + (" …" if record.finish_reason == "length" else "")
        console.print(Text(f"\n{record.number:2}. {record.arrival.question}", style="bold"))
        console.print(Text(f"    {answer}"), soft_wrap=not console.is_terminal)
    console.print()


def table(figures: Figures) -> Table:
    """What the clients saw, then what the engine did."""
    made = Table(show_header=False)
    made.add_row("time to first token", _three(figures.first_token))
    made.add_row("inter-token latency", _three(figures.gap))
    made.add_row("whole answer", _three(figures.whole))
    rate = figures.num_tokens / figures.seconds
    made.add_row("tokens/s", f"{rate:.1f}  ({figures.num_tokens} tokens in {figures.seconds:.1f} s)", end_section=True)
    made.add_row("iterations", f"{figures.num_iterations}  (mean rows {figures.mean_rows:.1f})")
    made.add_row("most rows in one iteration", f"{figures.most_rows}")
    made.add_row("reorders", f"{figures.num_reorders}  (rows moved: {figures.num_row_moves})")
    return made


def _three(spread: Spread) -> str:
    median, p95, worst = (_duration(value) for value in (spread.median, spread.p95, spread.worst))
    return f"median {median}   95 % {p95}   worst {worst}"


def _duration(seconds: float) -> str:
    return f"{seconds:4.1f} s " if seconds >= 1 else f"{seconds * 1000:3.0f} ms"
