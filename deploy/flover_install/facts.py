"""What is so on this host: the server's files, its stub, the Pythons, the GPU, memory, disk. Reads; changes nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .options import CHECKOUT, STAGING, Options

LIBRARY, STUB, UTILS = "libtriton_python.so", "triton_python_backend_stub", "triton_python_backend_utils.py"
SHARED_MEMORY = Path("/dev/shm")
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
TORCH, TESTED_TORCH = "torch>=2.11", "2.13.0"


@dataclass(frozen=True)
class PythonFacts:
    """One interpreter, as probe.py saw it. Versions are texts; None: not there."""

    version: str = ""
    base_executable: str = ""
    is_distribution: bool = False
    folders: tuple[str, ...] = ()
    packages: dict[str, str | None] = field(default_factory=dict)
    torch_cuda: str | None = None
    driver_cuda: str | None = None
    glibc: str = ""
    libpython_release: str | None = None
    libpython_folders: tuple[str, ...] = ()
    error: str = ""
    """Why it could not be asked; then nothing else is filled in."""

    @property
    def series(self) -> str:
        """`3.11`."""
        return ".".join(self.version.split(".")[:2])

    def has(self, package: str) -> str | None:
        """Its version."""
        return self.packages.get(package)


@dataclass(frozen=True)
class Facts:
    """Everything that the checks judge."""

    triton: str | None
    """`2.51.0`."""
    missing_files: tuple[str, ...]
    backend_link_target: str | None
    """Where libtriton_python.so leads when it is a link out of its folder."""
    stub_python: str | None
    """`3.11`: of the libpython that the stub names."""
    libpython: str | None
    """The library that the loader finds for the stub, with the LD_LIBRARY_PATH of now."""
    stub_takes_numpy2: bool
    needed_glibc: str
    python: PythonFacts
    engine: PythonFacts | None
    """None: the engine runs in `python`."""
    gpus: tuple[str, ...]
    """`NVIDIA H200, 9.0` a GPU."""
    shm_total: int
    shm_free: int
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
    backend = options.backend_directory / "python"
    stub = _stub_bytes(options)
    libpython = _libpython_of_stub(_stub_path(options))
    python = ask(options.python, libpython or "")
    engine = ask(options.engine_python, "") if options.engine_python else None
    gpus = _gpus()
    shm = os.statvfs(SHARED_MEMORY) if SHARED_MEMORY.is_dir() else None
    found = re.search(rb"libpython(3\.\d+)\.so", stub)
    return Facts(
        triton=_triton_version(options.server_root),
        missing_files=tuple(name for name in (LIBRARY, STUB, UTILS) if not (backend / name).is_file()),
        backend_link_target=_link_out(backend / LIBRARY),
        stub_python=found.group(1).decode() if found else None,
        libpython=libpython,
        # NOTE: pybind11 asks numpy.lib.NumpyVersion since the release (2.12) that reads the arrays of NumPy 2.
        stub_takes_numpy2=b"NumpyVersion" in stub,
        needed_glibc=_newest_glibc(stub),
        python=python,
        engine=engine,
        gpus=gpus,
        shm_total=shm.f_frsize * shm.f_blocks if shm else 0,
        shm_free=shm.f_frsize * shm.f_bavail if shm else 0,
        disk_free=shutil.disk_usage(_existing(options.home)).free,
        unwritable=tuple(str(path) for path in _written_to(options) if not os.access(path, os.W_OK)),
        occupied=tuple(str(path) for path in _own_folders(options) if _in_the_way(path) and str(path) not in owned),
        no_folders=tuple(
            str(path) for path in _written_to(options) if not path.is_dir() and path not in _own_folders(options)
        ),
        bundled=_bundled() if options.from_checkout else None,
        torch_offer=None if packages_are_there else _torch_offer(options, python, gpus),
    )


def ask(python: Path, library: str, packages: Path | None = None) -> PythonFacts:
    """Run probe.py with an interpreter. PYTHONPATH is left out, as Triton's stub does, but for `packages`."""
    command = [str(python), str(Path(__file__).with_name("probe.py")), library]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if packages is not None:
        environment["PYTHONPATH"] = str(packages)
    try:
        answer = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=120, check=False, cwd="/"
        )
        told: dict[str, Any] = json.loads(answer.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return PythonFacts(error=f"{python} does not answer: {error}")
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in told.items()}
    return PythonFacts(**values)


def wants_gpu(options: Options, gpus: tuple[str, ...]) -> bool:
    """Whether the server will have a GPU."""
    return options.device == "gpu" or (options.device == "auto" and bool(gpus))


def version_tuple(text: str) -> tuple[int, ...]:
    """(2, 11) for `2.11+cpu` and `2.11rc1`."""
    return tuple(int(part) for part in re.findall(r"\d+", re.split(r"[+a-z]", text)[0]))


def _stub_path(options: Options) -> Path:
    """A stub of the backend's own folder goes before the Python backend's; ours brings none."""
    return options.backend_directory / "python" / STUB


def _stub_bytes(options: Options) -> bytes:
    path = _stub_path(options)
    return path.read_bytes() if path.is_file() else b""


def _triton_version(root: Path) -> str | None:
    path = root / "TRITON_VERSION"
    return (path.read_text().strip() if path.is_file() else "") or os.environ.get("TRITON_SERVER_VERSION")


def _link_out(library: Path) -> str | None:
    real = Path(os.path.realpath(library))
    inside = real.parent == Path(os.path.realpath(library.parent))
    return None if inside or not library.is_file() else str(real)


def _libpython_of_stub(stub: Path) -> str | None:
    try:
        answer = subprocess.run(["ldd", str(stub)], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"libpython3\S+ => (/\S+)", answer.stdout)
    return found.group(1) if found else None


def _newest_glibc(binary: bytes) -> str:
    versions = {found.decode() for found in re.findall(rb"GLIBC_(\d+\.\d+)\b", binary)}
    return max(versions, key=version_tuple, default="")


def _gpus() -> tuple[str, ...]:
    program = shutil.which("nvidia-smi")
    if program:
        command = [program, "--query-gpu=name,compute_cap", "--format=csv,noheader"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if answer.returncode == 0:
            return tuple(line.strip() for line in answer.stdout.splitlines() if line.strip())
    return tuple(str(path) for path in sorted(Path("/dev").glob("nvidia[0-9]*")))


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
