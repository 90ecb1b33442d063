"""Finds perf_analyzer: the binary inside the tritonclient wheel, and the two libraries that it lacks.

Those lie in the nvidia-pytriton wheel under names with a hash; a folder of links gives them the names that the binary
asks for. Runs nothing.
"""

from __future__ import annotations

import importlib.metadata
import os
from dataclasses import dataclass
from pathlib import Path

from benchmarks.pa.errors import MeasurementFailed
from flover_backend.server_files import find_triton

LIBRARIES = ("libb64.so.0d", "libcudart.so.12")


@dataclass(frozen=True)
class PerfAnalyzer:
    """A binary and the folder of libraries that its LD_LIBRARY_PATH must hold; None: it needs none."""

    path: Path
    libraries: Path | None = None

    def environment(self) -> dict[str, str]:
        """Of its process."""
        if self.libraries is None:
            return dict(os.environ)
        folders = [str(self.libraries), os.environ.get("LD_LIBRARY_PATH", "")]
        return os.environ | {"LD_LIBRARY_PATH": os.pathsep.join(filter(None, folders))}


def lay_out_perf_analyzer(folder: Path) -> PerfAnalyzer:
    """The wheel's binary, with its libraries linked into `folder`, which is made. Raises `MeasurementFailed`."""
    binary = _binary_of_the_wheel()
    folder.mkdir(parents=True, exist_ok=True)
    for name in LIBRARIES:
        link = folder / name
        link.unlink(missing_ok=True)
        link.symlink_to(_library(find_triton().libraries, name))
    return PerfAnalyzer(binary, folder.resolve())


def _binary_of_the_wheel() -> Path:
    try:
        wheel = importlib.metadata.distribution("tritonclient")
    except importlib.metadata.PackageNotFoundError:
        raise MeasurementFailed(
            "tritonclient is not installed; its wheel carries perf_analyzer: run make setup"
        ) from None
    for file in wheel.files or ():
        path = Path(str(wheel.locate_file(file)))
        if file.name == "perf_analyzer" and path.is_file():
            return path.resolve()
    raise MeasurementFailed(
        f"the wheel of tritonclient {wheel.version} holds no perf_analyzer; 2.51.0 does. "
        "Install that, or name a binary with --perf-analyzer"
    )


def _library(folder: Path, name: str) -> Path:
    """`libb64-98cb6333.so.0d` for `libb64.so.0d`."""
    stem, _, rest = name.partition(".")
    found = sorted(folder.glob(f"{stem}-*.{rest}*"))
    if not found:
        raise MeasurementFailed(f"{folder} holds no {name}, which perf_analyzer needs; reinstall nvidia-pytriton")
    return found[0]
