"""Iterations that nobody asked for, before the first request: memory is touched, kernels and threads are ready.

They run on row state of their own against the null block, so that nothing remains of them.
"""

from __future__ import annotations

from pathlib import Path

from flover_backend.engine.rowstate import RowState
from flover_backend.engine.runner import TorchRunner
from flover_backend.kv.buffer import KVBuffer
from flover_backend.models.batch import Model
from flover_backend.request import SamplingParams
from flover_backend.scheduler.plan import Chunk, Join, Plan

_PARAMS = (SamplingParams(max_tokens=2, temperature=0.0), SamplingParams(max_tokens=2, temperature=1.0, top_p=0.9))


def warm_up(model: Model, kv: KVBuffer, max_rows: int, max_prompt: int) -> int:
    """Run a prompt of at most `max_prompt` tokens and decode iterations of 1 and `max_rows` rows.

    Returns by how many bytes these made the process's resident set peak (CPU): activations, logits and scratch.
    """
    before = _start_peak()
    for num_rows in dict.fromkeys((1, max_rows)):
        runner = TorchRunner(
            model, kv, RowState(num_rows, model.max_model_len, kv.block_size, model.vocab_size, model.device)
        )
        joins = [Join(row, [0], [], _PARAMS[row % 2], row) for row in range(num_rows)]
        chunks = [Chunk(row, 0, [0], True) for row in range(num_rows)]
        chunks[0] = Chunk(0, 0, [0] * min(max_prompt, model.max_model_len), True)
        runner.run(Plan(0, num_rows, joins=joins, chunks=chunks))
        runner.run(Plan(1, num_rows, decode_rows=list(range(num_rows))))
    return max(0, _peak() - before)


def _start_peak() -> int:
    """Resident bytes now, from which the peak is counted again where the kernel allows that."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return _peak()
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(field: str) -> int:
    """A size of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return 0
