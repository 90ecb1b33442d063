"""The engine bound in a PyTriton program: docs/pytriton.md.

    from pytriton.triton import Triton
    from flover_backend.pytriton import FloverEngine

    with FloverEngine("flover", model="llama-demo") as engine, Triton() as triton:
        engine.bind(triton)
        triton.serve()

Import it before Triton starts: it prepares the environment of the processes that PyTriton starts (environment.py).
"""

from flover_backend.errors import ConfigError, EngineFailed, FloverError
from flover_backend.pytriton import environment
from flover_backend.pytriton.engine import FloverEngine

environment.prepare()

__all__ = ["ConfigError", "EngineFailed", "FloverEngine", "FloverError"]
