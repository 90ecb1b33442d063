"""Triton's Python backend looks for `TritonPythonModel` here; the code is in the package flover_backend."""

from flover_backend.front.adapter import TritonPythonModel

__all__ = ["TritonPythonModel"]
