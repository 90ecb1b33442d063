"""What is so on this host beside what every Triton server's host has (flover_backend/host): the places that an
installation goes to, and the torch that pip would bring. Reads; changes nothing.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from flover_backend.host.facts import HostFacts, look, server_files
from flover_backend.host.pythons import PythonFacts, version_tuple

from .options import CHECKOUT, STAGING, Options

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
TORCH, TESTED_TORCH = "torch>=2.11", "2.13.0"


@dataclass(frozen=True)
class Facts(HostFacts):
    """Everything that the checks judge."""

    disk_free: int
    unwritable: tuple[str, ...]
    occupied: tuple[str, ...]
    """Folders in the way that no earlier run made."""
    no_folders: tuple[str, ...]
    """Files and the like where a folder is to be made in."""
    bundled: tuple[str, ...] | None
    """Names of the models in the source tree; None when the package comes from elsewhere."""
    torch_offer: TorchOffer | None
    """None when torch is there already, or must not be installed."""


@dataclass(frozen=True)
class TorchOffer:
    """What pip would install as torch, and from which index beside its own. `error`: why it finds none."""

    version: str = ""
    index: str | None = None
    cuda: str | None = None
    """The CUDA it is built for, `13` or `12.6`, as its version or its requirements say."""
    error: str = ""

    @property
    def is_for_cpu(self) -> bool:
        """Its version says so: without CUDA's libraries."""
        return self.version.endswith("+cpu")


def gather(options: Options, owned: frozenset[str], *, packages_are_there: bool) -> Facts:
    """`owned`: folders that earlier runs made. `packages_are_there`: an earlier run has installed the same ones."""
    host = look(server_files(options.server_root, options.backend_directory), options.python, options.engine_python)
    return Facts(
        **vars(host),
        disk_free=shutil.disk_usage(_existing(options.home)).free,
        unwritable=tuple(str(path) for path in _written_to(options) if not os.access(path, os.W_OK)),
        occupied=tuple(str(path) for path in _own_folders(options) if _in_the_way(path) and str(path) not in owned),
        no_folders=tuple(
            str(path) for path in _written_to(options) if not path.is_dir() and path not in _own_folders(options)
        ),
        bundled=_bundled() if options.from_checkout else None,
        torch_offer=None if packages_are_there else _torch_offer(options, host.python, host.gpus),
    )


def wants_gpu(options: Options, gpus: tuple[str, ...]) -> bool:
    """Whether the server will have a GPU."""
    return options.device == "gpu" or (options.device == "auto" and bool(gpus))


def _own_folders(options: Options) -> list[Path]:
    return [path for path in (options.home, options.model_folder) if path is not None]


def _in_the_way(path: Path) -> bool:
    """False for what a run left that was killed in its first step."""
    return path.exists() and not (path.is_dir() and [entry.name for entry in path.iterdir()] == [STAGING])


def _written_to(options: Options) -> list[Path]:
    """The nearest folders that exist already: there the new ones are made."""
    return list(dict.fromkeys(_existing(path) for path in _own_folders(options)))


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _bundled() -> tuple[str, ...]:
    return tuple(sorted(path.parent.name for path in (CHECKOUT / "flover_backend" / "bundled").glob("*/config.json")))


def brings_torch(options: Options, python: PythonFacts) -> bool:
    """Whether torch has to be installed: the engine runs in the stub's Python, which has none that is new enough."""
    present = python.has("torch")
    enough = present is not None and version_tuple(present) >= version_tuple(TORCH.split(">=")[1])
    return options.engine_python is None and not options.no_deps and not enough


def _torch_offer(options: Options, python: PythonFacts, gpus: tuple[str, ...]) -> TorchOffer | None:
    """Ask pip without installing. A CPU's torch is the build that says so: others bring gigabytes of CUDA."""
    if not brings_torch(options, python) or python.error or python.has("pip") is None:
        return None
    if options.torch_index:
        return _dry_run(options, options.torch_index)
    newest = _dry_run(options, None)
    if wants_gpu(options, gpus) or newest.is_for_cpu:
        return newest
    tested = _dry_run(options, None, f"torch=={TESTED_TORCH}+cpu")
    if tested.is_for_cpu:
        return tested
    from_pytorch = _dry_run(options, CPU_INDEX)
    return from_pytorch if from_pytorch.is_for_cpu else newest


def cuda_of(version: str, requirements: list[str]) -> str | None:
    """`12.6` for torch 2.13.0+cu126; else the major release of the CUDA packages that it requires."""
    local = re.search(r"\+cu(\d+)(\d)$", version)
    if local:
        return ".".join(local.groups())
    required = re.search(r"^(?:cuda-toolkit\b[^=;]*==|nvidia-[a-z-]+-cu)(\d+)", "\n".join(requirements), re.M)
    return required.group(1) if required else None


def _dry_run(options: Options, index: str | None, torch: str = TORCH) -> TorchOffer:
    flags = ["--dry-run", "--ignore-installed", "--no-deps", "--quiet", "--report", "-", "--retries", "1"]
    given = [*options.pip_arguments, *(("--index-url", index) if index else ())]
    command = [str(options.python), "-m", "pip", "--disable-pip-version-check", "install", *flags, *given, torch]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False, cwd="/")
    except (OSError, subprocess.TimeoutExpired) as error:
        return TorchOffer(error=str(error))
    try:
        told = json.loads(answer.stdout)["install"][0]["metadata"]
        return TorchOffer(told["version"], index, cuda_of(told["version"], told.get("requires_dist", [])))
    except (ValueError, LookupError):
        lines = [line for line in answer.stderr.splitlines() if line.strip()]
        return TorchOffer(error=lines[-1] if lines else f"pip ended with {answer.returncode}")
