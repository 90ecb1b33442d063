"""Modules that only a clone of the repository has, such as `benchmarks`; the installed package comes without them."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

from flover_backend.errors import ConfigError

HERE = Path(__file__).resolve().parent.parent


def import_from_clone(name: str) -> ModuleType:
    """From the clone that this package runs from, or else the working directory. Raises `ConfigError` in neither."""
    top, *_ = name.split(".")
    for root in (HERE, Path.cwd()):
        if (root / top / "suite" / "__init__.py").is_file():
            if str(root) not in sys.path:
                sys.path.insert(0, str(root))
            return importlib.import_module(name)
    raise ConfigError(
        f"the package {top} is not here: it is no part of the installed flover_backend; "
        f"from a clone of the repository run: python -m {top}"
    )
