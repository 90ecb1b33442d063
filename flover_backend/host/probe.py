"""Run by the Python that is asked about, as a file of its own: prints what it is and has, as JSON.

Arguments: a shared libpython to look at, or an empty string. Imports no package that it reports: torch takes seconds.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import json
import os
import re
import site
import sys
import sysconfig
from pathlib import Path

PACKAGES = ("numpy", "msgspec", "tokenizers", "safetensors", "torch", "triton", "flover-backend", "pip")


def version_of(package: str) -> str | None:
    """None when it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def torch_cuda() -> str | None:
    """The CUDA that torch was built for, as `13.0`; None for a CPU build or no torch."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return None
    path = Path(found.origin).with_name("version.py")
    match = re.search(r"^cuda\b[^=]*= *['\"]([\d.]+)['\"]", path.read_text() if path.is_file() else "", re.M)
    return match.group(1) if match else None


def libpython_release(library: str) -> str | None:
    """`3.11.2`, or the reason why it cannot be told."""
    if not library:
        return None
    try:
        handle = ctypes.CDLL(library)
        handle.Py_GetVersion.restype = ctypes.c_char_p
        return str(handle.Py_GetVersion().decode().split()[0])
    except (OSError, AttributeError) as error:
        return str(error)


def driver_cuda() -> str | None:
    """Newest CUDA that the installed NVIDIA driver runs, as `13.0`; None without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(version)):
        return None
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def libpython_folders() -> list[str]:
    """Where this interpreter's own libpython may lie."""
    folders = [sysconfig.get_config_var("LIBDIR"), str(Path(sys.base_prefix, "lib"))]
    return [folder for folder in dict.fromkeys(folders) if folder]


print(
    json.dumps(
        {
            "version": ".".join(map(str, sys.version_info[:3])),
            "base_executable": os.path.realpath(getattr(sys, "_base_executable", sys.executable)),
            "is_distribution": os.path.realpath(sys.base_prefix) == "/usr",
            "folders": [path for path in sys.path if path.endswith(("-packages",))] or site.getsitepackages(),
            "packages": {package: version_of(package) for package in PACKAGES},
            "torch_cuda": torch_cuda(),
            "driver_cuda": driver_cuda(),
            "glibc": (os.confstr("CS_GNU_LIBC_VERSION") or "").replace("glibc ", ""),
            "libpython_release": libpython_release(sys.argv[1]),
            "libpython_folders": libpython_folders(),
        }
    )
)
