"""How long the GPU does nothing in steady decode: a profile of some iterations."""

from __future__ import annotations

from collections.abc import Iterator

from flover_backend.bench_engine import bars
from flover_backend.bench_engine.figures import BenchError, Line, judge
from flover_backend.bench_engine.recording import record_iterations
from flover_backend.bench_engine.session import Session


def idle(session: Session) -> Iterator[Line]:
    """1 - union of the kernels' times / from the first kernel to the last's end."""
    if session.device.type != "cuda":
        raise BenchError("needs an NVIDIA GPU")
    sizes = session.sizes
    timeline = record_iterations(session.engine, sizes.burst, sizes.prompt, sizes.profiled)
    yield judge(
        "idle",
        session.shape.name,
        f"GPU idle in {sizes.profiled} decode iterations, {sizes.burst} rows (profiled)",
        timeline.idle_share * 100,
        bars.IDLE,
        "%",
        ms_by_kind={kind: s * 1e3 / sizes.profiled for kind, s in timeline.seconds_by_kind().items()},
        kernels=len(timeline.device) / sizes.profiled,
    )
