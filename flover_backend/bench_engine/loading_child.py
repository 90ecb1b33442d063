"""A process that loads an engine and says what that took: DIRECTORY DEVICE FORMAT and the time when it was started.

It says so on standard output, as a line of JSON, when it is ready, and again after it has worked: it begins to work at
a line on standard input, and ends at the next.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from flover_backend.bench_engine.drive import drive, prompts, together
from flover_backend.config import ModelJson
from flover_backend.engine.load import load_engine
from flover_backend.engine.stages import StageTimes


def main(directory: Path, device: str, load_format: str, started: float) -> None:
    """Load, tell, work, tell."""
    imports_s, times = time.time() - started, StageTimes(lambda stage, fraction: None)
    config = ModelJson(model=str(directory), device=device, load_format=load_format)  # type: ignore[arg-type]
    engine, info = load_engine(config, directory, times)
    model, kv = engine.runner.model, engine.runner.kv
    facts = {"stages": times.seconds, "imports_s": imports_s, "weight_bytes": model.weight_bytes}
    print(json.dumps(facts | {"kv_bytes": kv.num_bytes}), flush=True)
    sys.stdin.readline()
    drive(engine, together(prompts(info.max_rows, 8, info.vocab_size), 24))
    drive(engine, together(prompts(8, info.max_model_len // 2, info.vocab_size), 4))
    print(json.dumps({"worked": True}), flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4]))
