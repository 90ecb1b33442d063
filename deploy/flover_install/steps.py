"""Installs, upgrades and removes. What can fail happens in a staging folder first, which a failure removes."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from .checks import instances_for
from .facts import Facts
from .manifest import Manifest
from .options import CHECKOUT, Options
from .staging import Tell, fingerprint, run_python, stage_packages


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
        stage_packages(options, facts, options.staging, tell)
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
    return run_python(options.python, options.packages, code)


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
