"""The Triton server that is to serve: which one is meant, its stub and the Pythons around it."""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from flover_backend.doctor.options import DoctorOptions
from flover_backend.errors import ConfigError
from flover_backend.host.checks import (
    FRONT_PACKAGES,
    Check,
    check_cuda,
    check_glibc,
    check_gpus,
    check_libpython,
    check_numpy,
    check_packages,
    check_server,
    check_stub_python,
)
from flover_backend.host.facts import HostFacts, ServerFiles, look, server_files
from flover_backend.host.pythons import PythonFacts, ask
from flover_backend.server_files import find_triton

IMAGE_ROOT = Path("/opt/tritonserver")
WHEEL_RELEASES = {"0.7.0": "2.51.0"}
"""nvidia-pytriton -> the Triton in it, which the wheel says nowhere."""


@dataclass(frozen=True)
class Server:
    """A server and what runs in it."""

    files: ServerFiles
    python: Path
    """The stub's interpreter."""
    packages: Path | None
    """The folder of packages that deploy/install.py made beside the backend `flover`."""
    has_backend: bool
    """Whether the python-based backend `flover` is there."""


def find_server(options: DoctorOptions) -> Server:
    """The one that the flags name, an image's, or the wheel's. Raises `ConfigError` when there is none."""
    root = options.server_root or (IMAGE_ROOT if IMAGE_ROOT.is_dir() else None)
    if root is None and options.backend_directory is None:
        return _wheel_server(options)
    root = (root or IMAGE_ROOT).absolute()
    backends = (options.backend_directory or root / "backends").absolute()
    packages = backends / "flover" / "site-packages"
    return Server(
        files=server_files(root, backends),
        python=program(options.python or shutil.which("python3") or sys.executable),
        packages=packages if packages.is_dir() else None,
        has_backend=(backends / "flover" / "model.py").is_file(),
    )


def _wheel_server(options: DoctorOptions) -> Server:
    try:
        install = find_triton()
    except ConfigError as error:
        raise ConfigError(f"no server: {IMAGE_ROOT} is not there, and {error}") from None
    version = WHEEL_RELEASES.get(importlib.metadata.version("nvidia-pytriton"))
    files = ServerFiles(version, install.backend, install.stub, install.environment())
    return Server(files, program(options.python or sys.executable), None, has_backend=False)


def program(path: Path | str) -> Path:
    """An absolute path. A bare name is looked up on PATH. Links stay: a virtual environment's python is one."""
    return Path(shutil.which(str(path)) or path).absolute()


def look_at(server: Server) -> HostFacts:
    """Asks the interpreters, the loader and the driver; takes a second."""
    return look(server.files, server.python, None)


def front_facts(server: Server, facts: HostFacts) -> PythonFacts:
    """What the fronts find: the interpreter's packages, and first those beside the backend."""
    if server.packages is None or facts.python.error:
        return facts.python
    return ask(server.python, "", server.packages, server.files.environment)


def check_server_parts(server: Server, facts: HostFacts) -> list[Check]:
    """The files and the interpreter of the stub."""
    front = front_facts(server, facts)
    checks = [
        *check_server(facts, server.files.backend, python_based=server.has_backend),
        check_stub_python(facts, server.python),
        *check_libpython(facts),
        *check_numpy(facts, server.python),
        *check_glibc(facts),
    ]
    if not front.error:
        place = str(server.packages or server.python)
        checks.append(check_packages(FRONT_PACKAGES, front, place, "install this package there: docs/deploy.md"))
    return checks


def check_device(facts: HostFacts, engine: PythonFacts, *, wanted: bool) -> list[Check]:
    """GPUs and their driver, for an engine in this interpreter."""
    cuda = check_cuda(engine, facts.python.driver_cuda) if wanted and not engine.error else ()
    return [*check_gpus(facts.gpus, wanted=wanted), *cuda]
