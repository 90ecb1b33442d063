"""Model folders for a server that others use too: more models of ours, their versions, and the neighbours."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from live_server import ROOT

NEIGHBOURS = Path(__file__).parent / "models"
SHIPPED = ROOT / "model_repository" / "flover"


def add_neighbours(models: Path, *names: str) -> None:
    """The models of tests/neighbours/models, by name."""
    for name in names:
        shutil.copytree(NEIGHBOURS / name, models / name, ignore=shutil.ignore_patterns("__pycache__"))
        (models / name / "1").mkdir(exist_ok=True)  # an ensemble's version folder is empty, which git does not keep


def add_model(models: Path, name: str, versions: Mapping[int, dict[str, Any]], more: str = "", count: int = 1) -> None:
    """A model of ours: version -> model.json. `more` is added to its config.pbtxt."""
    config = (SHIPPED / "config.pbtxt").read_text()
    (models / name).mkdir(exist_ok=True)
    text = config.replace('"flover"', f'"{name}"').replace("count: 1", f"count: {count}")
    (models / name / "config.pbtxt").write_text(f"{text}{more}\n")
    for version, content in versions.items():
        add_version(models, name, version, content)


def add_version(models: Path, name: str, version: int, content: dict[str, Any]) -> None:
    """A version folder, whole at once: a server that polls never sees half of it."""
    partial = models.parent / f"{name}-{version}.part"
    partial.mkdir()
    shutil.copyfile(SHIPPED / "1" / "model.py", partial / "model.py")
    (partial / "model.json").write_text(json.dumps(content))
    partial.rename(models / name / str(version))
