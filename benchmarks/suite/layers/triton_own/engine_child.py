"""An engine that answers batches: keys of model.json on the first line, then a line of [prompt, new tokens] pairs each.

Answers `{}` when it is loaded and a line of token ids for each batch; ends with its input.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from flover_backend.engine.threads import set_thread_counts

set_thread_counts()  # before torch is imported

from flover_backend.bench_engine.drive import drain  # noqa: E402
from flover_backend.config import ModelJson  # noqa: E402
from flover_backend.engine.interface import EngineCore, SequenceUpdate  # noqa: E402
from flover_backend.engine.load import load_engine  # noqa: E402
from flover_backend.front.model_dir import resolve_model_dir  # noqa: E402
from flover_backend.request import Request, SamplingParams  # noqa: E402

_KEYS = itertools.count(1)


def complete(engine: EngineCore, asked: Sequence[tuple[list[int], int]]) -> list[list[int]]:
    """Greedy tokens of each request, when all have theirs. Raises `RuntimeError` when one ends early."""
    answers: dict[int, list[int]] = {}
    try:
        for prompt, new in asked:
            key = next(_KEYS)
            params = SamplingParams(max_tokens=new, temperature=0.0, ignore_eos=True)
            engine.add(Request(key=key, prompt_ids=prompt, params=params, arrival_time=time.monotonic()))
            answers[key] = []
        while engine.has_work:
            for update in engine.step():
                if not isinstance(update, SequenceUpdate):
                    raise RuntimeError(f"a request ended early: {update.message}")
                answers[update.key] += update.token_ids
    finally:
        drain(engine, answers)
    return list(answers.values())


def main() -> None:
    """Serve until the input ends."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what is printed is no answer
    config = msgspec.convert(json.loads(sys.stdin.readline()), ModelJson)
    engine, _ = load_engine(config, resolve_model_dir(config.model, Path.cwd()), lambda stage, fraction: None)
    print("{}", file=out, flush=True)
    for line in sys.stdin:
        print(json.dumps(complete(engine, json.loads(line))), file=out, flush=True)


if __name__ == "__main__":
    main()
