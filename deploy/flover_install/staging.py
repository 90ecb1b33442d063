"""Puts the packages into a staging folder with pip, and proves there that they run; nothing outside it changes.

Knows nothing of what is installed already, nor of how a staged folder takes its place: that is in `steps`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from flover_backend.host.checks import check_cuda
from flover_backend.host.pythons import PythonFacts, ask

from .facts import Facts, brings_torch, wants_gpu
from .options import CHECKOUT, Options

Tell = Callable[[str], None]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "flover_backend")
FRONT_IMPORTS = "flover_backend.front.service, flover_backend.front.tokenizer"
ENGINE_IMPORTS = "flover_backend.engine.process, flover_backend.engine.service, torch, safetensors"
ENGINE_BESIDE_TORCH = ("msgspec", "safetensors", "numpy")
"""What the engine imports beside torch, and what needs nothing else itself."""


class StepFailed(Exception):
    """The text says which step, and what to do; everything is as it was before."""


def fingerprint(options: Options) -> str:
    """Of all that decides what the packages' folders hold."""
    digest = hashlib.sha256()
    for path in _source_files(options):
        digest.update(f"{path}\0".encode() + path.read_bytes() + b"\0")
    decided = (options.package, str(options.python), str(options.engine_python), options.device, options.no_deps)
    digest.update(repr((decided, options.torch_index, options.pip_arguments)).encode())
    return digest.hexdigest()


def _source_files(options: Options) -> list[Path]:
    if not options.from_checkout:
        return [path for path in [Path(options.package)] if path.is_file()]
    found = [path for name in SOURCES for path in sorted([CHECKOUT / name, *(CHECKOUT / name).rglob("*")])]
    return [path for path in found if path.is_file() and "__pycache__" not in path.parts]


def stage_packages(options: Options, facts: Facts, staging: Path, tell: Tell) -> None:
    """Make in `staging` the folders that will become `options.packages` and, where there is an engine's Python,
    `options.engine_environment`. Raises `StepFailed`; what was made by then is the caller's to remove."""
    front = staging / options.packages.name
    with tempfile.TemporaryDirectory(dir=staging) as folder:
        package = _package(options, facts, Path(folder))
        tell(f"pip installs into {options.packages}" + (": torch takes minutes" if facts.torch_offer else ""))
        _pip(options, front, _requirements(options, facts, package))
        engine, engine_packages = options.python, front
        if facts.engine is not None and options.engine_python is not None:
            engine, engine_packages = _stage_engine(options, facts.engine, staging, package)
    _imports(options.python, front, FRONT_IMPORTS)
    _imports(engine, engine_packages, ENGINE_IMPORTS)
    if brings_torch(options, facts.python) and wants_gpu(options, facts.gpus):
        _check_staged_cuda(options, facts, front)


def _package(options: Options, facts: Facts, folder: Path) -> str:
    """What pip is given. Of a source tree a copy, since pip leaves build folders in it."""
    source = options.package
    if options.from_checkout:
        skip = shutil.ignore_patterns("__pycache__")
        for name in SOURCES:
            path = CHECKOUT / name
            copy = folder / "flover-backend" / name
            copy.parent.mkdir(exist_ok=True)
            shutil.copytree(path, copy, ignore=skip) if path.is_dir() else shutil.copyfile(path, copy)
        source = str(folder / "flover-backend")
    if not brings_torch(options, facts.python):
        return source
    extras = "[engine,gpu]" if wants_gpu(options, facts.gpus) else "[engine]"
    return f"{source}{extras}" if "[" not in source else source


def _requirements(options: Options, facts: Facts, package: str) -> list[str]:
    if options.no_deps:
        return ["--no-deps", package]
    words = [package]
    if facts.torch_offer is not None:
        words += ["--extra-index-url", facts.torch_offer.index] if facts.torch_offer.index else []
        words.append(f"torch=={facts.torch_offer.version}")
    elif options.engine_python is None:
        words.append("safetensors")
    return words if facts.stub_takes_numpy2 else [*words, "numpy<2"]


def _stage_engine(options: Options, engine: PythonFacts, staging: Path, package: str) -> tuple[Path, Path]:
    """An environment of that interpreter: its packages, and the few of the engine. Returns (python, packages)."""
    assert options.engine_python is not None
    environment = staging / options.engine_environment.name
    packages = environment / "lib" / f"python{engine.series}" / "site-packages"
    packages.mkdir(parents=True)
    (environment / "bin").mkdir()
    (environment / "bin" / "python3").symlink_to(engine.base_executable)
    home = Path(engine.base_executable).parent
    (environment / "pyvenv.cfg").write_text(f"home = {home}\ninclude-system-site-packages = false\n")
    (packages / "engine-python.pth").write_text("".join(f"{folder}\n" for folder in engine.folders))
    missing = [name for name in ENGINE_BESIDE_TORCH if engine.has(name) is None]
    _pip(options, packages, ["--no-deps", package])
    if missing and not options.no_deps:
        other = ["--python-version", engine.series, "--only-binary", ":all:"]
        _pip(options, packages, ["--no-deps", *other, *missing])
    return environment / "bin" / "python3", packages


def _pip(options: Options, target: Path, words: list[str]) -> None:
    flags = ["--disable-pip-version-check", "--no-input", "install", "--target", str(target)]
    quiet = [] if sys.stdout.isatty() else ["--quiet"]
    command = [str(options.python), "-m", "pip", *flags, *quiet, *options.pip_arguments, *words]
    # NOTE: pip unpacks into TMPDIR, then moves; on another file system that copies gigabytes.
    environment = {**_environment(), "TMPDIR": str(options.staging), "PIP_ROOT_USER_ACTION": "ignore"}
    status = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, check=False, cwd="/").returncode
    if status:
        raise StepFailed(f"pip ended with {status}: {' '.join(words)}. Its reason is above; --index-url names an index")


def _imports(python: Path, packages: Path, modules: str) -> None:
    """Prove that what was installed runs in the Python that will run it."""
    run_python(python, packages, f"import {modules}")


def run_python(python: Path, packages: Path, code: str) -> str:
    """What the code prints. Raises `StepFailed` with the last line of its error."""
    command = [str(python), "-c", f"import sys; sys.path.insert(0, {str(packages)!r}); {code}"]
    answer = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False, cwd="/")
    if answer.returncode:
        lines = answer.stderr.strip().splitlines() or [f"ended with {answer.returncode}"]
        raise StepFailed(f"{python} cannot run what was installed: {lines[-1]}")
    return answer.stdout


def _environment() -> dict[str, str]:
    """The stub ignores PYTHONPATH, so this does too."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**kept, "PYTHONDONTWRITEBYTECODE": "1"}


def _check_staged_cuda(options: Options, facts: Facts, packages: Path) -> None:
    found = ask(options.python, "", packages)
    for result in check_cuda(found, facts.python.driver_cuda):
        if result.level == "fail":
            raise StepFailed(str(result))
