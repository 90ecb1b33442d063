"""Installs, upgrades and removes. What can fail happens in a staging folder first, which a failure removes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .checks import check_cuda, instances_for
from .facts import Facts, PythonFacts, ask, brings_torch, wants_gpu
from .manifest import Manifest
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


def packages_are_there(options: Options, manifest: Manifest) -> bool:
    """Whether an earlier run has installed the same packages, and they are whole."""
    folders = [options.packages] + [options.engine_environment] * (options.engine_python is not None)
    return manifest.packages.get("fingerprint") == fingerprint(options) and all(map(manifest.is_intact, folders))


def install(options: Options, facts: Facts, manifest: Manifest, tell: Tell) -> bool:
    """Bring everything to what is asked for. Returns whether anything changed. Raises `StepFailed`."""
    is_first = not manifest.path.exists()
    changed = not packages_are_there(options, manifest)
    if changed:
        _install_packages(options, facts, manifest, tell)
    try:
        changed |= _write_texts(options, facts, manifest, tell)
    except BaseException:
        if is_first:
            remove(manifest, tell)
        else:
            manifest.save()  # what was made so far is ours: the next run goes on from it, --remove takes it out
        raise
    manifest.save()
    return changed


def _write_texts(options: Options, facts: Facts, manifest: Manifest, tell: Tell) -> bool:
    changed = False
    for path, text in _texts(options, facts, manifest).items():
        outcome = manifest.write(path, text)
        changed |= outcome in ("made", "changed")
        if outcome != "same":
            tell(f"{outcome} {path}" + (" (edited since it was made)" if outcome == "kept" else ""))
    return changed


def _install_packages(options: Options, facts: Facts, manifest: Manifest, tell: Tell) -> None:
    _clear_staging(options)
    before = list(manifest.folders)
    try:
        manifest.make_folder(options.home)
        options.staging.mkdir()
        _stage_packages(options, facts, options.staging, tell)
        _swap(options, manifest, tell)
    except BaseException:
        _clear_staging(options)
        for folder in [Path(path) for path in reversed(manifest.folders) if path not in before]:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        raise


def _clear_staging(options: Options) -> None:
    """Of this run, or of one that was killed; then its empty home goes too."""
    if options.staging.is_dir():
        shutil.rmtree(options.staging)
        if not any(options.home.iterdir()):
            options.home.rmdir()


def remove(manifest: Manifest, tell: Tell) -> bool:
    """Undo everything. Returns False when some of it was changed since and is left."""
    manifest.path.unlink(missing_ok=True)
    left = manifest.remove()
    for path in left:
        tell(f"left {path}")
    return not left


def _stage_packages(options: Options, facts: Facts, staging: Path, tell: Tell) -> None:
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
    _run_python(python, packages, f"import {modules}")


def _run_python(python: Path, packages: Path, code: str) -> str:
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


def _swap(options: Options, manifest: Manifest, tell: Tell) -> None:
    """The new folders take the places of the old ones at once; what others put into the old ones is left beside."""
    for place in (options.packages, options.engine_environment):
        old = _free_name(place)
        if place.exists():
            place.rename(old)
        new = options.staging / place.name
        if new.exists():
            new.rename(place)
        left = manifest.remove(place, moved_to=old)
        if left:
            tell(f"left {', '.join(left)[:500]}")
        if place.exists():
            manifest.adopt(place)
    shutil.rmtree(options.staging)
    version = _installed_version(options)
    manifest.packages = {"fingerprint": fingerprint(options), "version": version, "flags": options.kept_flags}
    manifest.save()


def _free_name(place: Path) -> Path:
    number = 1
    while place.with_name(f"{place.name}.old-{number}").exists():
        number += 1
    return place.with_name(f"{place.name}.old-{number}")


def _installed_version(options: Options) -> str:
    found = sorted(options.packages.glob("flover_backend-*.dist-info"))
    return found[-1].name.split("-")[1].removesuffix(".dist") if found else ""


def _texts(options: Options, facts: Facts, manifest: Manifest) -> dict[Path, str]:
    """The small files, by path: the backend's, and those of every model that this or an earlier run has made."""
    texts = {}
    if options.layout == "backend":
        texts[options.home / "model.py"] = (CHECKOUT / "deploy" / "flover" / "model.py").read_text()
    if options.model_folder is not None:
        place = str(options.model_folder)
        manifest.models[place] = _asked(options, facts, manifest.models.get(place, {}))
    for place, asked in manifest.models.items():
        folder = Path(place)
        texts[folder / "config.pbtxt"] = _config(options, folder.name, asked["instances"])
        texts[folder / "1" / "model.json"] = json.dumps(asked["model_json"], indent=2) + "\n"
        if options.layout == "repository":
            texts[folder / "1" / "model.py"] = _model_py(options)
    return texts


def _asked(options: Options, facts: Facts, before: dict[str, Any]) -> dict[str, Any]:
    """A flag wins; without it, what an earlier run was told; else what suits the host."""
    model_json = dict(before.get("model_json", {}))
    if options.model is not None:
        is_folder = Path(options.model).is_dir()
        model_json["model"] = str(Path(options.model).absolute()) if is_folder else options.model
    if options.engine_python is not None:
        model_json["engine_python"] = str(options.engine_environment / "bin" / "python3")
    if options.device == "cpu":
        model_json["device"] = "cpu"
    instances = options.instances or before.get("instances") or instances_for(options, facts)
    return {"instances": instances, "model_json": model_json}


def _config(options: Options, name: str, instances: int) -> str:
    """config.pbtxt in full, so that it loads with auto-completion off as well."""
    backend = "flover" if options.layout == "backend" else "python"
    call = f"config_pbtxt({name!r}, {instances}, {backend!r})"
    code = f"from flover_backend.front.tensors import config_pbtxt; sys.stdout.write({call})"
    return _run_python(options.python, options.packages, code)


def _model_py(options: Options) -> str:
    shipped = (CHECKOUT / "flover_backend" / "front" / "model.py").read_text()
    path = f"import sys\n\nsys.path.insert(0, {str(options.packages)!r})\n\n"
    return shipped.replace("from flover_backend", f"{path}from flover_backend", 1)


def summary(options: Options, facts: Facts) -> list[str]:
    """How to start the server now."""
    lines = [f"{options.backend_directory / options.home.name} is the backend `flover`"] * (options.layout == "backend")
    if options.model_folder is None:
        return [
            *lines,
            'a model needs config.pbtxt with backend: "flover" and 1/model.json; --model-repository makes one',
        ]
    if shutil.which("python3") != str(options.python):
        lines.append(f"start it with {options.python.parent} first on PATH: there the stub looks for its Python")
    if not facts.python.is_distribution and "LD_LIBRARY_PATH" in os.environ:
        lines.append(f"start it with LD_LIBRARY_PATH={os.environ['LD_LIBRARY_PATH']}, as this script was")
    return [
        *lines,
        f"start: tritonserver --model-repository={options.model_repository} --model-control-mode=explicit "
        f"--load-model={options.name}",
    ]
