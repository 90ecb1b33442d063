"""What is so on this host: the server's files, its stub, Pythons, GPUs, shared memory. Reads; changes nothing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .pythons import PythonFacts, ask, version_tuple

LIBRARY, STUB, UTILS = "libtriton_python.so", "triton_python_backend_stub", "triton_python_backend_utils.py"
SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class ServerFiles:
    """Where a Triton server keeps what matters here, and the environment that it is started with."""

    triton: str | None
    """Its version, `2.51.0`."""
    backend: Path
    """Folder of the Python backend."""
    stub: Path
    environment: Mapping[str, str] | None = None
    """None: this process's."""


@dataclass(frozen=True)
class HostFacts:
    """Everything that the checks of a host judge."""

    triton: str | None
    """`2.51.0`."""
    missing_files: tuple[str, ...]
    backend_link_target: str | None
    """Where libtriton_python.so leads when it is a link out of its folder."""
    stub_python: str | None
    """`3.11`: of the libpython that the stub names."""
    libpython: str | None
    """The library that the loader finds for the stub, with the server's LD_LIBRARY_PATH."""
    stub_takes_numpy2: bool
    needed_glibc: str
    python: PythonFacts
    engine: PythonFacts | None
    """None: the engine runs in `python`."""
    gpus: tuple[str, ...]
    """`NVIDIA H200, 9.0` a GPU."""
    shm_total: int
    shm_free: int


def server_files(server_root: Path, backend_directory: Path) -> ServerFiles:
    """Of a server laid out as in NVIDIA's images, started with the environment of now."""
    folder = backend_directory / "python"
    # A stub of a backend's own folder goes before the Python backend's; ours brings none.
    return ServerFiles(_triton_version(server_root), folder, folder / STUB)


def look(server: ServerFiles, python: Path, engine_python: Path | None) -> HostFacts:
    """`python`: the stub's; `engine_python`: None where the engine runs in it."""
    stub = server.stub.read_bytes() if server.stub.is_file() else b""
    libpython = _libpython_of_stub(server)
    found = re.search(rb"libpython(3\.\d+)\.so", stub)
    missing = [name for name in (LIBRARY, UTILS) if not (server.backend / name).is_file()]
    shm = os.statvfs(SHARED_MEMORY) if SHARED_MEMORY.is_dir() else None
    return HostFacts(
        triton=server.triton,
        missing_files=(*missing, *([] if server.stub.is_file() else [STUB])),
        backend_link_target=_link_out(server.backend / LIBRARY),
        stub_python=found.group(1).decode() if found else None,
        libpython=libpython,
        # NOTE: pybind11 asks numpy.lib.NumpyVersion since the release (2.12) that reads the arrays of NumPy 2.
        stub_takes_numpy2=b"NumpyVersion" in stub,
        needed_glibc=_newest_glibc(stub),
        python=ask(python, libpython or "", environment=server.environment),
        engine=ask(engine_python, "") if engine_python else None,
        gpus=gpus(),
        shm_total=shm.f_frsize * shm.f_blocks if shm else 0,
        shm_free=shm.f_frsize * shm.f_bavail if shm else 0,
    )


def gpus() -> tuple[str, ...]:
    """`NVIDIA H200, 9.0` a GPU, or the device file where nvidia-smi does not answer."""
    program = shutil.which("nvidia-smi")
    if program:
        command = [program, "--query-gpu=name,compute_cap", "--format=csv,noheader"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if answer.returncode == 0:
            return tuple(line.strip() for line in answer.stdout.splitlines() if line.strip())
    return tuple(str(path) for path in sorted(Path("/dev").glob("nvidia[0-9]*")))


def _triton_version(root: Path) -> str | None:
    path = root / "TRITON_VERSION"
    return (path.read_text().strip() if path.is_file() else "") or os.environ.get("TRITON_SERVER_VERSION")


def _link_out(library: Path) -> str | None:
    real = Path(os.path.realpath(library))
    inside = real.parent == Path(os.path.realpath(library.parent))
    return None if inside or not library.is_file() else str(real)


def _libpython_of_stub(server: ServerFiles) -> str | None:
    command = ["ldd", str(server.stub)]
    try:
        answer = subprocess.run(
            command, env=server.environment, capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"libpython3\S+ => (/\S+)", answer.stdout)
    return found.group(1) if found else None


def _newest_glibc(binary: bytes) -> str:
    versions = {found.decode() for found in re.findall(rb"GLIBC_(\d+\.\d+)\b", binary)}
    return max(versions, key=version_tuple, default="")
