"""The command line, and the places that follow from it. Touches no file."""

from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
BACKEND_NAME = "flover"
STAGING = ".staging"
"""Folder in which a run prepares what it then moves to its place."""
MANIFEST_NAME = "flover-install.json"


@dataclass(frozen=True)
class Options:
    """One field a flag; paths are absolute."""

    server_root: Path
    backend_directory: Path
    model_repository: Path | None
    layout: str
    """backend: a python-based backend folder; repository: a model.py in each model's version folder."""
    python: Path
    engine_python: Path | None
    name: str
    instances: int | None
    model: str | None
    device: str
    package: str
    no_deps: bool
    torch_index: str | None
    pip_arguments: tuple[str, ...]

    @property
    def home(self) -> Path:
        """The folder that is this installation's own."""
        return (self.backend_directory if self.layout == "backend" else self.server_root) / BACKEND_NAME

    @property
    def packages(self) -> Path:
        """The front's packages, and the engine's where it runs in the same Python."""
        return self.home / "site-packages"

    @property
    def staging(self) -> Path:
        """On the file system of what it becomes."""
        return self.home / STAGING

    @property
    def engine_environment(self) -> Path:
        """With --engine-python: what makes that interpreter find the engine, without changing it."""
        return self.home / "engine"

    @property
    def manifest(self) -> Path:
        """What earlier runs made."""
        return self.home / MANIFEST_NAME

    @property
    def model_folder(self) -> Path | None:
        """None without --model-repository."""
        return self.model_repository / self.name if self.model_repository else None

    @property
    def kept_flags(self) -> dict[str, Any]:
        """What a later run without these flags goes on with."""
        return {"engine_python": str(self.engine_python or ""), "device": self.device, "no_deps": self.no_deps}

    def with_kept_flags(self, kept: dict[str, Any]) -> Options:
        """Flags of an earlier run, where this one gives none."""
        return replace(
            self,
            engine_python=self.engine_python or (Path(kept["engine_python"]) if kept.get("engine_python") else None),
            device=kept.get("device", "auto") if self.device == "auto" else self.device,
            no_deps=self.no_deps or kept.get("no_deps", False),
        )

    @property
    def from_checkout(self) -> bool:
        """True when the package is the source tree that this script lies in."""
        return self.package == str(CHECKOUT)


def parser() -> argparse.ArgumentParser:
    """Every flag with its default."""
    made = argparse.ArgumentParser(
        prog="install.py",
        description="Install flover-backend into a Triton server. Checks first; a failed check changes nothing.",
        epilog="Nothing of the server's own Python is changed: packages go into a folder of their own. "
        "Exit status: 0 done or nothing to do, 1 a check or a step failed, 2 wrong flags.",
    )
    mode = made.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true", help="check, change nothing")
    mode.add_argument("--remove", action="store_true", help="undo what earlier runs did")
    where = made.add_argument_group("where")
    where.add_argument("--server-root", type=Path, default=Path("/opt/tritonserver"), help="default: %(default)s")
    where.add_argument("--backend-directory", type=Path, help="the server's; default: backends/ of the server root")
    where.add_argument("--model-repository", type=Path, help="make a model folder there; default: make none")
    where.add_argument(
        "--layout",
        choices=("backend", "repository"),
        default="backend",
        help="backend: a python-based backend folder (Triton 23.10 and later); repository: model.py in the model's "
        "version folder, nothing in the backend directory. Default: %(default)s",
    )
    where.add_argument(
        "--python", type=Path, help="Python of the stub; default: the first python3 on PATH, as Triton's"
    )
    where.add_argument("--engine-python", type=Path, help="another Python, with torch, for the engine process")
    model = made.add_argument_group("the model")
    model.add_argument("--name", default=BACKEND_NAME, help="its name in Triton; default: %(default)s")
    model.add_argument("--model", help="Hugging Face directory, or a bundled model; default: the bundled LLaMA")
    model.add_argument("--instances", type=int, help="fronts; default: 4 with a GPU, 1 on a CPU")
    model.add_argument(
        "--device",
        choices=("auto", "gpu", "cpu"),
        default="auto",
        help="what the server will have; auto: what this machine has. Default: %(default)s",
    )
    pip = made.add_argument_group("packages")
    pip.add_argument("--package", default=str(CHECKOUT), help="what pip installs; default: this source tree")
    pip.add_argument("--no-deps", action="store_true", help="the dependencies are in the stub's Python already")
    pip.add_argument("--index-url", help="package index, as pip's")
    pip.add_argument("--extra-index-url", action="append", default=[], help="as pip's; may be repeated")
    pip.add_argument("--torch-index", help="package index that torch comes from")
    pip.add_argument("--pip-arg", action="append", default=[], help="a further argument for pip install (--pip-arg=-v)")
    return made


def options_from(given: argparse.Namespace) -> Options:
    """Paths made absolute, defaults filled in. Raises ValueError naming a flag that makes no sense."""
    python = given.python or shutil.which("python3") or sys.executable
    if given.instances is not None and given.instances < 1:
        raise ValueError(f"--instances: got {given.instances}, allowed: 1 or more")
    if not given.name or "/" in given.name or given.name.startswith("."):
        raise ValueError(f"--name: got {given.name!r}, allowed: the name of a folder")
    if given.layout == "repository" and given.model_repository is None:
        raise ValueError("--layout repository puts model.py into the model's folder: give --model-repository")
    root = given.server_root.absolute()
    index = ["--index-url", given.index_url] if given.index_url else []
    extra = [word for url in given.extra_index_url for word in ("--extra-index-url", url)]
    return Options(
        server_root=root,
        backend_directory=(given.backend_directory or root / "backends").absolute(),
        model_repository=given.model_repository and given.model_repository.absolute(),
        layout=given.layout,
        python=_absolute_program(python),
        engine_python=given.engine_python and _absolute_program(given.engine_python),
        name=given.name,
        instances=given.instances,
        model=given.model,
        device=given.device,
        package=str(Path(given.package).absolute()) if Path(given.package).exists() else given.package,
        no_deps=given.no_deps,
        torch_index=given.torch_index,
        pip_arguments=(*index, *extra, *given.pip_arg),
    )


def _absolute_program(path: Path | str) -> Path:
    """A bare name is looked up on PATH, as a shell would. Links stay: a virtual environment's python is one."""
    found = shutil.which(str(path))
    return Path(found or path).absolute()
