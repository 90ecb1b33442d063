"""`flover bench trace`: records iterations of a model with random weights and draws their timeline."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flover_backend.bench_engine.picture import draw
from flover_backend.bench_engine.recording import record_iterations
from flover_backend.bench_engine.session import make_engine, resolve_bench_device
from flover_backend.bench_engine.shapes import SHAPES
from flover_backend.bench_engine.timeline import Timeline
from flover_backend.config import ModelJson
from flover_backend.engine.load import load_engine
from flover_backend.engine.sizing import resolve_device
from flover_backend.engine.stages import StageTimes
from flover_backend.errors import ConfigError


@dataclass(frozen=True, slots=True)
class TraceOptions:
    """What is recorded. `model`: a name of bench_engine/shapes.py (random weights), or a directory."""

    model: str = "13b"
    iterations: int = 4
    rows: int = 32
    prompt_tokens: int = 8
    device: str = "auto"
    picture: Path = Path("out/trace.png")
    chrome: Path | None = None
    """Where the Chrome trace goes, for a viewer of one's own."""


def trace(options: TraceOptions, tell: Callable[[str], None] = print) -> Timeline:
    """Record, draw, and tell where the time went. Raises `ConfigError` where the model does not load."""
    find, times = resolve_bench_device if options.model in SHAPES else resolve_device, StageTimes(lambda *_: None)
    device = find(options.device)
    with tempfile.TemporaryDirectory() as folder:
        if options.model in SHAPES:
            engine, info = make_engine(SHAPES[options.model].write(Path(folder)), device, times)
        elif Path(options.model).is_dir():
            config = ModelJson(model=options.model, device=device.type)  # type: ignore[arg-type]
            engine, info = load_engine(config, Path(options.model), times)
        else:
            raise ConfigError(f"model {options.model!r}; allowed: a directory, or one of {', '.join(SHAPES)}")
    tell(f"loaded: {times.describe()}")
    if options.rows > info.max_rows:
        raise ConfigError(f"rows is {options.rows}; the engine has {info.max_rows}")
    timeline = record_iterations(engine, options.rows, options.prompt_tokens, options.iterations, options.chrome)
    title = f"{options.iterations} decode iterations, {Path(options.model).name}, {info.dtype}, {options.rows} rows"
    draw(timeline, title, options.picture)
    for kind, seconds in timeline.seconds_by_kind().items():
        tell(f"{kind:18} {seconds * 1e3 / options.iterations:9.3f} ms an iteration")
    if timeline.device:
        tell(f"GPU idle {timeline.idle_share:.2%}")
    tell(f"picture: {options.picture}")
    return timeline
