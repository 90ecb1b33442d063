"""Model repositories as the doctor finds them: the shipped one, and copies with one thing wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from live_server import ROOT

from flover_backend.bundled import path_of
from flover_backend.doctor.repository import FoundModel, find_models
from flover_backend.host.checks import Check

SHIPPED = ROOT / "model_repository"


def make_repository(folder: Path, model_json: str | dict[str, Any] | None = None, config: str | None = None) -> Path:
    """A copy of the shipped one; `config` replaces config.pbtxt, an empty one removes it."""
    repository = folder / "repository"
    shutil.copytree(SHIPPED, repository, ignore=shutil.ignore_patterns("__pycache__"))
    if model_json is not None:
        text = model_json if isinstance(model_json, str) else json.dumps(model_json)
        (repository / "flover" / "1" / "model.json").write_text(text, errors="surrogateescape")
    if config is not None:
        path = repository / "flover" / "config.pbtxt"
        path.unlink()
        if config:
            path.write_text(config)
    return repository


def shipped_config(*changes: tuple[str, str]) -> str:
    """config.pbtxt with texts replaced."""
    text = (SHIPPED / "flover" / "config.pbtxt").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    return text


def copy_model(folder: Path, **changes: Any) -> Path:
    """The bundled LLaMA; `changes` are keys of its config.json (None: taken out)."""
    directory = folder / "model"
    shutil.copytree(path_of("llama-demo"), directory)
    path = directory / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return directory


def only_model(repository: Path, *, has_backend: bool = False) -> FoundModel:
    (model,) = find_models(repository, has_backend=has_backend)
    return model


def at_level(checks: list[Check], level: str) -> list[str]:
    return [str(check) for check in checks if check.level == level]
