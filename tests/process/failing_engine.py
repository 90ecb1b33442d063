"""Factories of real engines whose runner fails in the middle of an iteration, as a GPU does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from flover_backend.channel import EngineInfo
from flover_backend.config import ModelJson
from flover_backend.engine.engine import Engine
from flover_backend.engine.load import load_engine
from flover_backend.scheduler.plan import Plan, StepResult

FAILS_AT = 6
CUDA_ERROR = "CUDA error: device-side assert triggered"


class FailingRunner:
    """A runner that calls `fail` before plan `FAILS_AT`."""

    def __init__(self, runner: object, fail: Callable[[], None]) -> None:
        self._runner, self._fail = runner, fail

    def __getattr__(self, name: str) -> object:
        return getattr(self._runner, name)

    def run(self, plan: Plan) -> StepResult | None:
        if plan.step == FAILS_AT:
            self._fail()
        return self._runner.run(plan)  # type: ignore[attr-defined,no-any-return]


def load_raising(
    config: ModelJson, model_dir: Path, progress: Callable[[str, float], None]
) -> tuple[Engine, EngineInfo]:
    """It raises what reading a result raises once the device is broken."""
    return _load(config, model_dir, progress, _raise)


def load_faulting(
    config: ModelJson, model_dir: Path, progress: Callable[[str, float], None]
) -> tuple[Engine, EngineInfo]:
    """A kernel reads out of bounds on the GPU and asserts there: whatever waits for the device next raises."""
    return _load(config, model_dir, progress, _fault)


def _load(
    config: ModelJson, model_dir: Path, progress: Callable[[str, float], None], fail: Callable[[], None]
) -> tuple[Engine, EngineInfo]:
    engine, info = load_engine(config, model_dir, progress)
    engine.runner = FailingRunner(engine.runner, fail)
    return engine, info


def _raise() -> None:
    raise torch.AcceleratorError(CUDA_ERROR)


def _fault() -> None:
    torch.arange(4, device="cuda")[torch.tensor([1 << 20]).cuda()]
