"""A small run as the demo records it: three requests, ten iterations of a tenth of a second."""

from __future__ import annotations

from flover_backend.channel import Iteration
from flover_backend.demo.schedule import Arrival
from flover_backend.demo.traffic import Record

START = 1000.0


def iteration(step: int, rows: int, moves: int = 0, waiting: int = 0) -> Iteration:
    return Iteration(
        step=step,
        time=START + step / 10,
        seconds=0.1,
        num_rows=rows,
        num_live=rows,
        decode_tokens=rows,
        prefill_tokens=0,
        joins=0,
        leaves=0,
        row_moves=moves,
        block_moves=0,
        num_waiting=waiting,
        free_blocks=9,
    )


def iterations() -> list[Iteration]:
    rows = [1, 2, 2, 3, 3, 3, 2, 2, 1, 1]
    return [iteration(step, count, moves=int(step == 6)) for step, count in enumerate(rows)]


def record(number: int, sent: float, first: float, num_tokens: int, reason: str = "stop") -> Record:
    """Tokens a tenth of a second apart."""
    made = Record(number, Arrival(sent, f"Question {number}?", 128), sent=START + sent)
    made.token_times = [START + first + token / 10 for token in range(num_tokens)]
    made.text = f"Answer\n{number}."
    made.finish_reason = reason
    made.ended = made.token_times[-1]
    return made


def records() -> list[Record]:
    return [record(1, 0.0, 0.1, 9), record(2, 0.1, 0.3, 4), record(3, 0.3, 0.4, 3, reason="length")]
