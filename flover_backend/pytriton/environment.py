"""The environment variables that PyTriton's tritonserver and its Python stubs are to start with.

    LD_LIBRARY_PATH           the stub needs the libpython of this very interpreter; without it no model loads
    PYTRITON_NO_TENSORSTORE   a response's few hundred bytes go with their message, not through a store in shared memory
                              that has a process of its own, which takes more than twice as long

A value that is set, an empty one too, is left as it is. Knows processes and variables, no PyTriton.
"""

from __future__ import annotations

import os
from pathlib import Path

from flover_backend.errors import ConfigError
from flover_backend.libpython import LibpythonError, find_libpython
from flover_backend.lifeline import children

NO_STORE = "PYTRITON_NO_TENSORSTORE"


def prepare() -> None:
    """Set them for the processes to come. An interpreter without a libpython is left to `check`."""
    os.environ.setdefault(NO_STORE, "1")
    try:
        folder = str(find_libpython().parent)
    except LibpythonError:
        return
    folders = [entry for entry in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if entry]
    if folder not in folders:
        os.environ["LD_LIBRARY_PATH"] = os.pathsep.join([folder, *folders])


def check() -> None:
    """Raise `ConfigError` when there is no libpython, or when a running tritonserver was started without all this."""
    try:
        find_libpython()
    except LibpythonError as error:
        raise ConfigError(str(error)) from None
    servers = [variables for pid in children() if (variables := _variables_of_tritonserver(pid)) is not None]
    if servers and all(variables.get(NO_STORE, "") != os.environ.get(NO_STORE, "") for variables in servers):
        raise ConfigError(
            f"Triton was started with another {NO_STORE} than flover_backend.pytriton has set when it was imported; "
            "import flover_backend.pytriton before Triton starts"
        )


def _variables_of_tritonserver(pid: int) -> dict[str, str] | None:
    try:
        if Path(f"/proc/{pid}/comm").read_text().strip() != "tritonserver":
            return None
        pairs = Path(f"/proc/{pid}/environ").read_text(errors="surrogateescape").split("\0")
    except OSError:
        return None
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)
