"""Where the host's time goes: a burst with several numbers of fronts and sender threads, and CPU time by part."""

from __future__ import annotations

import resource
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from benchmarks.suite.layers.client import Analyzer, generate, warm_up
from benchmarks.suite.layers.server import TritonLayer
from benchmarks.suite.workload import Workload
from benchmarks.through_triton.cpu import CpuTimes, look
from benchmarks.through_triton.measure import Asked, Seen, in_words, seen_of
from flover_backend.config import ModelJson

DEFAULT_COUNT = 4
"""Fronts on a GPU, with which the numbers of sender threads are compared."""


class Profiled(msgspec.Struct, kw_only=True):
    """One burst by perf_analyzer. CPU times are seconds of the whole burst."""

    count: int
    """Fronts."""
    sender_threads: int
    seen: Seen
    num_responses: int
    cpu_s: dict[str, float]
    """By kind of process: front, tritonserver, engine, perf_analyzer."""
    front_threads_s: dict[str, float]
    """Of all fronts: `main` runs execute, `engine-client` reads the engine's messages, `sender` sends."""
    engine_threads_s: dict[str, float]
    busiest_front_s: float

    def micros(self, kind: str) -> float:
        """CPU microseconds a response."""
        return self.cpu_s.get(kind, 0.0) * 1e6 / max(1, self.num_responses)


def settings_of(counts: Sequence[int], senders: Sequence[int]) -> list[tuple[int, int]]:
    """(fronts, sender threads): the counts with the default of threads, the threads with the default of fronts."""
    default = ModelJson().sender_threads
    middle = DEFAULT_COUNT if DEFAULT_COUNT in counts or not counts else max(counts)
    both = [(count, default) for count in counts] + [(middle, number) for number in senders]
    return list(dict.fromkeys(both))


def profile_burst(
    asked: Asked, work: Workload, settings: Sequence[tuple[int, int]], tell: Callable[[str], None]
) -> list[Profiled]:
    """A server for each setting."""
    found = []
    for count, senders in settings:
        keys = asked.keys | {"sender_threads": senders}
        layer = TritonLayer(asked.model, "auto", tell, instances=count, **keys)
        with tempfile.TemporaryDirectory(prefix="flover-perf-") as libraries, layer:
            analyzer = Analyzer.find(asked.analyzer, Path(libraries), tell)
            generate(layer.target, warm_up(work), "triton", asked.model, 1)
            root = layer.server.pid
            before, client = look(root), _children_s()
            run = analyzer.run(layer.target, work, asked.model)
            spent, client = look(root).since(before), _children_s() - client
        found.append(_profiled(count, senders, seen_of(run, work), run.num_responses or 0, spent, client))
        tell(f"{count} fronts, {senders} sender threads: {in_words(found[-1].seen)}")
    return found


def _profiled(count: int, senders: int, seen: Seen, responses: int, spent: CpuTimes, client: float) -> Profiled:
    return Profiled(
        count=count,
        sender_threads=senders,
        seen=seen,
        num_responses=responses,
        cpu_s=spent.by_kind() | {"perf_analyzer": client},
        front_threads_s=spent.by_thread("front"),
        engine_threads_s=spent.by_thread("engine"),
        busiest_front_s=spent.busiest("front"),
    )


def _children_s() -> float:
    """Of children that have ended: here perf_analyzer, and no server that still runs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def markdown(found: Sequence[Profiled], streams: int, bare_wall_s: float | None) -> str:
    """One row a setting."""
    head = (
        "fronts", "sender threads", "wall", "of the engine", "first token p50", "gap p99", "together",
        "CPU us a response: fronts", "tritonserver", "engine", "perf_analyzer", "busiest front", "fronts' threads",
    )  # fmt: skip
    rows = [head, tuple("---" for _ in head), *(_row(one, bare_wall_s) for one in found)]
    return f"\nA burst of {streams}:\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _row(one: Profiled, bare_wall_s: float | None) -> tuple[str, ...]:
    threads = [(name, spent * 1e6 / max(1, one.num_responses)) for name, spent in one.front_threads_s.items()]
    return (
        f"{one.count}",
        f"{one.sender_threads}",
        f"{one.seen.wall_s:.3f} s",
        f"{bare_wall_s / one.seen.wall_s:.1%}" if bare_wall_s else "–",
        f"{one.seen.first_p50:.1f} ms",
        f"{one.seen.gap_p99:.2f} ms",
        f"{one.seen.together:.1%}",
        *(f"{one.micros(kind):.1f}" for kind in ("front", "tritonserver", "engine", "perf_analyzer")),
        f"{one.busiest_front_s / one.seen.wall_s:.0%}",
        ", ".join(f"{name} {micros:.1f}" for name, micros in threads if micros >= 0.05),
    )
