"""Which model a server is to load, as keys of model.json. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flover_backend.bench_engine.shapes import SHAPES

ENGINE_PYTHON = "ENGINE_PYTHON"
"""Environment variable: the interpreter that has torch, where the one of clients and stubs has none."""


@contextmanager
def model_keys(model: str | Path, load_format: str = "auto", **keys: Any) -> Iterator[dict[str, Any]]:
    """`model`: a name of bench_engine/shapes.py, served with random weights; a bundled name; or a directory.

    A directory for a shape is removed at the end.
    """
    python = keys.pop("engine_python", None) or os.environ.get(ENGINE_PYTHON)
    if python:
        keys["engine_python"] = str(python)
    if str(model) in SHAPES:
        with TemporaryDirectory(prefix="flover-bench-") as folder:
            directory = SHAPES[str(model)].write(Path(folder))
            yield keys | {"model": str(directory), "load_format": "random"}
        return
    found = str(Path(model).resolve()) if Path(model).is_dir() else str(model)
    yield keys | {"model": found, "load_format": load_format}


def model_name(model: str | Path) -> str:
    """For results: a directory's last part."""
    return Path(model).name
