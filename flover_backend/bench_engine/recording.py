"""Records steady decode iterations of an engine with torch.profiler."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from flover_backend.bench_engine.drive import Record, drive, prompts, together
from flover_backend.bench_engine.timeline import Timeline, read_trace
from flover_backend.engine.engine import Engine
from flover_backend.engine.ranges import phase

LEAD = 24
"""Iterations before the recording; the profiler's own start disturbs a few more, which are cut off."""
_CUT = 3


class _Recorder:
    """Starts and stops the profiler between two steps of a run."""

    def __init__(self, iterations: int, path: Path) -> None:
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
        self._profiler = profile(activities=activities)
        self._path = path
        self._first, self._last = LEAD, LEAD + iterations + _CUT

    def __call__(self, record: Record) -> None:
        if len(record.steps) == self._first and not phase.enabled:
            phase.enabled = True
            self._profiler.start()
        elif len(record.steps) == self._last and phase.enabled:
            self._profiler.stop()
            phase.enabled = False
            self._profiler.export_chrome_trace(str(self._path))


def record_iterations(engine: Engine, rows: int, prompt: int, iterations: int, keep: Path | None = None) -> Timeline:
    """`iterations` decode iterations of `rows` rows in a steady state; `keep` saves the Chrome trace there."""
    vocab_size = engine.runner.model.vocab_size
    with tempfile.TemporaryDirectory() as folder:
        path = keep or Path(folder) / "trace.json"
        was_on, phase.enabled = phase.enabled, False
        try:
            new_tokens = LEAD + iterations + _CUT + 8
            drive(
                engine, together(prompts(rows, prompt, vocab_size), new_tokens), each_step=_Recorder(iterations, path)
            )
        finally:
            phase.enabled = was_on
        timeline = read_trace(path)
    plans = [span.start for span in timeline.host if span.lane == "plan"]
    return timeline.after(plans[_CUT]) if len(plans) > _CUT else timeline
