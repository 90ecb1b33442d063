"""`flover bench ratios`: two CPU ratios of the bare engine on one model, greedy, measured side by side in one run.

Fused against one after another: the same requests together and each alone on the same engine. Alone against
transformers' generate: one request, same weights, same threads. Rounds are interleaved and the median is told, so
that a busy machine slows both sides. Knows the engine, no Triton.
"""

from __future__ import annotations

import importlib
import importlib.util
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

from flover_backend.config import ModelJson
from flover_backend.engine.engine import Engine
from flover_backend.engine.interface import SequenceUpdate
from flover_backend.engine.load import load_engine
from flover_backend.request import Request, SamplingParams

FUSED_BAR, ALONE_BAR = 4.0, 1.0
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What is measured. Prompts are random token ids from a fixed seed."""

    model_dir: Path
    num_requests: int = 16
    prompt_tokens: int = 16
    new_tokens: int = 64
    rounds: int = 3
    threads: int | None = None
    """Of torch, for both sides; None: as torch chooses."""


@dataclass(slots=True)
class BenchReport:
    """Tokens a second of each side by round, and whether the tokens agreed."""

    fused: list[float] = field(default_factory=list)
    one_by_one: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)
    transformers: list[float] = field(default_factory=list)
    """Empty where transformers is not installed."""
    fused_equal: int = 0
    """Requests whose tokens were the same fused and alone, of the last round."""
    transformers_equal: int = 0
    """Tokens of the request alone that transformers chose too, before the first difference."""


def bench(options: BenchOptions, tell: Callable[[str], None] = print) -> BenchReport:
    """Measure, telling each round, and then the table. Raises `ConfigError` where the model does not load."""
    with _threads(options.threads):
        engine, _ = load_engine(
            ModelJson(device="cpu", dtype="float32", max_rows=options.num_requests),
            options.model_dir,
            lambda stage, fraction: None,
        )
        reference = _load_transformers(options.model_dir)
        report = BenchReport()
        for number in range(options.rounds):
            _round(engine, reference, _prompts(options, engine), options.new_tokens, report)
            tell(_round_line(number, options, report))
        for line in table(options, report, torch.get_num_threads()):
            tell(line)
    return report


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _prompts(options: BenchOptions, engine: Engine) -> list[list[int]]:
    source, vocab_size = random.Random(1), engine.runner.model.vocab_size
    return [[source.randrange(vocab_size) for _ in range(options.prompt_tokens)] for _ in range(options.num_requests)]


def _round(engine: Engine, reference: Any, prompts: list[list[int]], new_tokens: int, report: BenchReport) -> None:
    seconds, together = _timed(lambda: generate(engine, prompts, new_tokens))
    report.fused.append(len(prompts) * new_tokens / seconds)
    seconds, separate = _timed(lambda: [generate(engine, [prompt], new_tokens)[0] for prompt in prompts])
    report.one_by_one.append(len(prompts) * new_tokens / seconds)
    report.fused_equal = sum(a == b for a, b in zip(together, separate, strict=True))
    seconds, alone = _timed(lambda: generate(engine, prompts[:1], new_tokens))
    report.alone.append(new_tokens / seconds)
    if reference is not None:
        seconds, theirs = _timed(lambda: _generate_by_transformers(reference, prompts[0], new_tokens))
        report.transformers.append(new_tokens / seconds)
        report.transformers_equal = _common_prefix(alone[0], theirs)


def generate(engine: Engine, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
    """Greedy tokens of requests that arrive together, each exactly `new_tokens` long."""
    params = SamplingParams(max_tokens=new_tokens, temperature=0.0, ignore_eos=True)
    for key, prompt in enumerate(prompts):
        engine.add(Request(key=key, prompt_ids=prompt, params=params, arrival_time=time.monotonic()))
    tokens: list[list[int]] = [[] for _ in prompts]
    while engine.has_work:
        for update in engine.step():
            assert isinstance(update, SequenceUpdate)
            tokens[update.key] += update.token_ids
    return tokens


def _timed(call: Callable[[], T]) -> tuple[float, T]:
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result


def _common_prefix(ours: list[int], theirs: list[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b), len(ours))


def _load_transformers(model_dir: Path) -> Any:
    """The same model in transformers, None where it is not installed."""
    if importlib.util.find_spec("transformers") is None:
        return None
    transformers = importlib.import_module("transformers")
    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    return model


@torch.inference_mode()
def _generate_by_transformers(model: Any, prompt: list[int], new_tokens: int) -> list[int]:
    ids = torch.tensor([prompt])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new_tokens,
        do_sample=False,
        pad_token_id=0,
    )
    return out[0, len(prompt) :].tolist()  # type: ignore[no-any-return]


def _round_line(number: int, options: BenchOptions, report: BenchReport) -> str:
    sides = {
        f"{options.num_requests} fused": report.fused,
        "one by one": report.one_by_one,
        "alone": report.alone,
        "transformers": report.transformers,
    }
    figures = ", ".join(f"{name} {values[-1]:.1f}" for name, values in sides.items() if values)
    return f"round {number + 1} of {options.rounds}, tokens/s: {figures}"


def table(options: BenchOptions, report: BenchReport, threads: int) -> list[str]:
    """The report as lines of text."""
    rows = [
        _row(f"{options.num_requests} requests fused / one after another", report.fused, report.one_by_one, FUSED_BAR),
        _row("1 request / transformers generate", report.alone, report.transformers, ALONE_BAR),
    ]
    head = f"{options.model_dir.name}, fp32 on the CPU, {threads} threads, greedy, {options.prompt_tokens} + "
    return [
        head + f"{options.new_tokens} tokens a request, median of {options.rounds} rounds",
        f"{'':44} {'ours tok/s':>11} {'other tok/s':>12} {'ratio':>7} {'bar':>6}",
        *rows,
        f"same tokens: {report.fused_equal} of {options.num_requests} requests fused and alone"
        + (f"; {report.transformers_equal} of {options.new_tokens} with transformers" if report.transformers else ""),
    ]


def _row(name: str, ours: list[float], other: list[float], bar: float) -> str:
    if not other:
        return f"{name:44} {statistics.median(ours):11.1f} {'not measured':>12} (transformers is not installed)"
    left, right = statistics.median(ours), statistics.median(other)
    return f"{name:44} {left:11.1f} {right:12.1f} {left / right:6.2f}x {bar:5.1f}x"
