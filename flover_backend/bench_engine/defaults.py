"""The default settings against a sweep: what the three arrival workloads and a burst's first token take with others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flover_backend.bench_engine import bars
from flover_backend.bench_engine.drive import drive
from flover_backend.bench_engine.figures import BenchError, Line, Spread, judge
from flover_backend.bench_engine.session import Session, free_device, make_engine
from flover_backend.bench_engine.workloads import arrival_workloads, burst
from flover_backend.engine.stages import StageTimes

SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "block_size 32": {"block_size": 32},
    "block_size 128": {"block_size": 128},
    "max_rows 64": {"max_rows": 64},
    "prefill_token_budget 32": {"prefill_token_budget": 32},
    "prefill_token_budget 512": {"prefill_token_budget": 512},
    "reorder none": {"reorder": "none"},
}


def defaults(session: Session, settings: dict[str, dict[str, Any]] | None = None) -> Iterator[Line]:
    """One line a workload: the best time of the sweep over the defaults'."""
    session.unload()
    seconds: dict[str, dict[str, float]] = {}
    for name, keys in (settings or SETTINGS).items():
        try:
            seconds[name] = _seconds(session, keys)
            session.tell(f"{name}: " + ", ".join(f"{what} {s:.3f} s" for what, s in seconds[name].items()))
        except Exception as error:
            session.tell(f"{name}: {type(error).__name__}: {error}")
        free_device(session.device)
    if "defaults" not in seconds:
        raise BenchError("the engine with default settings gave no figure")
    for what, ours in seconds["defaults"].items():
        best = min(seconds, key=lambda name, what=what: seconds[name][what])  # type: ignore[misc]
        yield judge(
            "defaults",
            session.shape.name,
            f"{what}: best of {len(seconds)} settings ({best}) {seconds[best][what]:.3f} s, defaults {ours:.3f} s",
            seconds[best][what] / ours,
            bars.DEFAULTS,
            seconds={name: of[what] for name, of in seconds.items()},
        )


def _seconds(session: Session, keys: dict[str, Any]) -> dict[str, float]:
    """After the last arrival, of each workload; and the first token of a burst. The engine ends with this function."""
    engine, info = make_engine(session.directory, session.device, StageTimes(lambda *_: None), **keys)
    sizes, vocab_size = session.sizes, info.vocab_size
    few = burst(sizes, sizes.burst, vocab_size, 4)
    drive(engine, few)
    times = [drive(engine, few).all_started() for _ in range(sizes.burst_repeats)]
    taken = {f"first token of {sizes.burst}": Spread.of(times).median}
    for workload in arrival_workloads(sizes, vocab_size):
        taken[workload.name] = drive(engine, workload.arrivals).end - workload.last
    return taken
