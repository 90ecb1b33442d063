"""A server root as NVIDIA's image has it, made of the nvidia-pytriton wheel, and servers started from it by hand.

The backend directory holds plain files: Triton refuses a python-based backend whose libtriton_python.so is a link out
of its folder.
"""

from __future__ import annotations

import os
import py_compile
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from live_server import ROOT, SITE_PACKAGES, TRITON, LiveServer

RELEASE = f"{sys.version_info.major}.{sys.version_info.minor}"
TRITON_VERSION = "2.51.0"


@dataclass(frozen=True)
class ServerRoot:
    """Stands for /opt/tritonserver and the Python of its stub."""

    root: Path
    venv: Path

    @property
    def python(self) -> Path:
        return self.venv / "bin" / "python3"

    @property
    def backends(self) -> Path:
        return self.root / "backends"

    def environment(self) -> dict[str, str]:
        """What the server, and whoever installs into it, is started with."""
        libraries = [str(SITE_PACKAGES / "nvidia_pytriton.libs"), sysconfig.get_config_var("LIBDIR")]
        return {
            **{name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")},
            "LD_LIBRARY_PATH": os.pathsep.join(libraries),
            "PATH": f"{self.python.parent}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
        }

    @contextmanager
    def serving(
        self,
        folder: Path,
        repository: Path,
        models: list[str],
        *arguments: str,
        environment: dict[str, str] | None = None,
    ) -> Iterator[LiveServer]:
        """A server under explicit control with these models; ended with the block. `folder` gets its log."""
        folder.mkdir(parents=True, exist_ok=True)
        common = [
            f"--model-repository={repository}",
            f"--backend-directory={self.backends}",
            "--model-control-mode=explicit",
            *(f"--load-model={name}" for name in models),
            "--allow-gpu-metrics=false",
            "--pinned-memory-pool-byte-size=0",
        ]
        server = LiveServer(folder, [*common, *arguments], environment or self.environment())
        try:
            yield server
        finally:
            server.stop()


def make_server_root(folder: Path, *, with_package: bool, release: str = RELEASE) -> ServerRoot:
    """`with_package`: the stub's Python finds flover_backend (as after pip install); else only what it needs."""
    root = folder / "tritonserver"
    backend = root / "backends" / "python"
    backend.mkdir(parents=True)
    stub = TRITON / "python_backend_stubs" / release / "triton_python_backend_stub"
    for source in [*(path for path in (TRITON / "backends" / "python").iterdir() if path.is_file()), stub]:
        shutil.copy2(source, backend / source.name)
    py_compile.compile(str(backend / "triton_python_backend_utils.py"))  # as the first server would
    (root / "bin").mkdir()
    (root / "bin" / "tritonserver").symlink_to(TRITON / "bin" / "tritonserver")
    (root / "TRITON_VERSION").write_text(f"{TRITON_VERSION}\n")
    return ServerRoot(root, make_venv(folder / "venv", [ROOT] * with_package + [SITE_PACKAGES]))


def make_venv(folder: Path, paths: list[Path]) -> Path:
    """A virtual environment with these folders on its path."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = folder / "lib" / f"python{RELEASE}" / "site-packages"
    (site / "packages-of-the-tests.pth").write_text("".join(f"{path}\n" for path in paths))
    return folder
