"""The Python file of Triton's own backend, as the wheel carries it; what the stub adds to it is in fake_triton.py."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any


def load_triton_utils() -> Any:
    package = importlib.util.find_spec("pytriton")
    assert package is not None and package.origin is not None
    path = Path(package.origin).parent / "tritonserver/backends/python/triton_python_backend_utils.py"
    spec = importlib.util.spec_from_file_location("triton_utils_of_the_wheel", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
