"""What the doctor asks of the engine's interpreter, and what it gets: messages of model_probe.py. No torch."""

from __future__ import annotations

import msgspec

from flover_backend.config import ModelJson
from flover_backend.host.checks import Check


class ModelQuestion(msgspec.Struct, frozen=True):
    """One model to look at."""

    name: str
    model_dir: str
    config: ModelJson


class ModelAnswer(msgspec.Struct, frozen=True):
    """Checks of one model."""

    name: str
    checks: list[Check]


class Answer(msgspec.Struct, frozen=True):
    """What was found."""

    engine: list[Check]
    """Of torch and the GPU."""
    models: list[ModelAnswer] = []
