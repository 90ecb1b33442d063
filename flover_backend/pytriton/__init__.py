"""The engine bound in a PyTriton program: docs/pytriton.md.

    from pytriton.triton import Triton
    from flover_backend.pytriton import FloverEngine

    with FloverEngine("flover", model="llama-demo") as engine, Triton() as triton:
        engine.bind(triton)
        triton.serve()

Importing this adds the folder of this interpreter's libpython to `LD_LIBRARY_PATH` for the processes that the program
starts: the Python stub of PyTriton's tritonserver needs it, and a plain PyTriton program has to be told.
"""

from flover_backend.errors import ConfigError, EngineFailed, FloverError
from flover_backend.libpython import show_to_children
from flover_backend.pytriton.engine import FloverEngine

show_to_children()

__all__ = ["ConfigError", "EngineFailed", "FloverEngine", "FloverError"]
