"""Triton's python-based backend `flover`: copied to `<backend directory>/flover/`, it serves each model whose
config.pbtxt says `backend: "flover"`; such a model folder needs no model.py of its own.

The package flover_backend comes from the folder `site-packages` beside this file (deploy/install.py makes it, so that
nothing of the server's own Python changes), else from the environment of Triton's stub.
"""

import sys
from pathlib import Path

PACKAGES = Path(__file__).resolve().parent / "site-packages"
if PACKAGES.is_dir():
    # NOTE: first, since a NumPy of the server's own may be one that its stub misreads; ours is chosen for the stub.
    sys.path.insert(0, str(PACKAGES))

from flover_backend.front.adapter import TritonPythonModel  # noqa: E402

__all__ = ["TritonPythonModel"]
