"""Finds the shared libpython of an interpreter, which Triton's Python stub loads instead of a `python3` program.

The stub needs the library of the very interpreter behind the virtual environment: with another patch release
models load, but `multiprocessing` breaks in the stub. Standard library only: set-up runs this before anything
is installed.
"""

from __future__ import annotations

import ctypes
import sys
import sysconfig
from pathlib import Path

SONAME = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"


class LibpythonError(Exception):
    """No usable libpython; the text says where it was looked for and what to do."""


def is_distribution_python() -> bool:
    """True when the interpreter is the one that the Linux distribution's packages installed."""
    return Path(sys.base_prefix).resolve() == Path("/usr")


def candidate_folders() -> list[Path]:
    """Folders where this interpreter's own library may lie, the likeliest first."""
    library_dir = sysconfig.get_config_var("LIBDIR")
    folders = [Path(library_dir)] if library_dir else []
    folders.append(Path(sys.base_prefix, "lib"))
    return list(dict.fromkeys(folders))


def hex_version(library: Path) -> int:
    """The release that a libpython was built from, encoded as `sys.hexversion`. Raises OSError if it cannot load."""
    return ctypes.c_ulong.in_dll(ctypes.CDLL(str(library)), "Py_Version").value


def version_text(hexversion: int) -> str:
    """`3.11.2` for 0x030b02f0."""
    return ".".join(str(hexversion >> shift & 0xFF) for shift in (24, 16, 8))


def find_libpython() -> Path:
    """The libpython of the running interpreter. Raises `LibpythonError`."""
    for folder in candidate_folders():
        library = folder / SONAME
        if library.is_file():
            check_release(library)
            return library
    looked = " and ".join(str(folder) for folder in candidate_folders())
    raise LibpythonError(f"{SONAME} of {sys.executable} was not found in {looked}. {_advice()}")


def check_release(library: Path) -> None:
    """Raise `LibpythonError` unless `library` is of the running interpreter's release."""
    try:
        found = hex_version(library)
    except (OSError, ValueError) as error:
        raise LibpythonError(f"{library} cannot be loaded: {error}. {_advice()}") from None
    if found != sys.hexversion:
        raise LibpythonError(
            f"{library} is Python {version_text(found)}, but {sys.executable} is {version_text(sys.hexversion)}; "
            f"they must be the same release. {_advice()}"
        )


def _advice() -> str:
    if is_distribution_python():
        package = f"libpython{sys.version_info.major}.{sys.version_info.minor}"
        return f"Install the distribution's package: apt-get install {package}"
    return "Use a Python that was built with --enable-shared (pyenv: PYTHON_CONFIGURE_OPTS=--enable-shared)"
