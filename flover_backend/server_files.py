"""The files that a tritonserver needs: its binary from the nvidia-pytriton wheel, backends, a model repository.

Everything is laid out in a folder of one run, by links where nothing changes. Knows no process and no port.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec

from flover_backend.config import ModelJson
from flover_backend.errors import ConfigError
from flover_backend.front.tensors import config_pbtxt
from flover_backend.libpython import LibpythonError, find_libpython

_MODEL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
MODEL_PY = Path(__file__).resolve().parent / "front" / "model.py"


@dataclass(frozen=True)
class TritonInstall:
    """Where the wheel keeps what is needed."""

    binary: Path
    libraries: Path
    """Folder of the shared libraries, with hashed names."""
    backend: Path
    """Folder of the Python backend, without a stub."""
    stub: Path
    """The stub of the running Python's release."""
    libpython: Path

    def environment(self) -> dict[str, str]:
        """The environment of a tritonserver: its libraries, and this interpreter's folder first on PATH."""
        libraries = [str(self.libraries), str(self.libpython.parent), os.environ.get("LD_LIBRARY_PATH", "")]
        return os.environ | {
            "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
            # NOTE: the stub takes its sys.path from the python3 that is first on PATH, and ignores PYTHONPATH.
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        }


def find_triton() -> TritonInstall:
    """The tritonserver of the nvidia-pytriton wheel. Raises `ConfigError` when the wheel is missing or incomplete."""
    package = importlib.util.find_spec("pytriton")
    if package is None or package.origin is None:
        raise ConfigError("nvidia-pytriton is not installed; it carries the tritonserver: pip install nvidia-pytriton")
    root = Path(package.origin).parent
    release = f"{sys.version_info.major}.{sys.version_info.minor}"
    install = TritonInstall(
        binary=root / "tritonserver" / "bin" / "tritonserver",
        libraries=root.parent / "nvidia_pytriton.libs",
        backend=root / "tritonserver" / "backends" / "python",
        stub=root / "tritonserver" / "python_backend_stubs" / release / "triton_python_backend_stub",
        libpython=_libpython(),
    )
    for path in (install.binary, install.libraries, install.backend, install.stub):
        if not path.exists():
            raise ConfigError(f"the nvidia-pytriton wheel lacks {path}; reinstall it, for Python {release} on Linux")
    return install


def _libpython() -> Path:
    try:
        return find_libpython()
    except LibpythonError as error:
        raise ConfigError(str(error)) from None


def lay_out_backends(folder: Path, install: TritonInstall) -> Path:
    """Make the backend directory in `folder`; returns it, absolute, for --backend-directory."""
    python = folder.resolve() / "backends" / "python"
    python.mkdir(parents=True)
    for source in sorted(install.backend.iterdir()):
        if source.is_file():
            (python / source.name).symlink_to(source)
    (python / install.stub.name).symlink_to(install.stub)
    return python.parent


def check_model_name(name: str) -> None:
    """Raise `ConfigError` for what cannot be a folder of the repository and a part of Triton's URLs as it is."""
    if not _MODEL_NAME.fullmatch(name):
        allowed = "A to Z, a to z, digits, _, - and ., the first no - or ., at most 128 characters"
        raise ConfigError(f"{name!r} cannot be the name of a model; allowed: {allowed}")


def lay_out_repository(folder: Path, name: str, instances: int, config: ModelJson) -> Path:
    """Make a model repository with the one model `name` in `folder`; returns it. Raises `ConfigError`."""
    check_model_name(name)
    version = folder.resolve() / "models" / name / "1"
    version.mkdir(parents=True)
    (version.parent / "config.pbtxt").write_text(config_pbtxt(name, instances))
    shutil.copyfile(MODEL_PY, version / "model.py")
    (version / "model.json").write_text(json.dumps(changed_keys(config), indent=2) + "\n")
    return version.parent.parent


def changed_keys(config: ModelJson) -> dict[str, object]:
    """What differs from the defaults: an operator's model.json holds no more."""
    default = msgspec.to_builtins(ModelJson())
    return {key: value for key, value in msgspec.to_builtins(config).items() if value != default[key]}
