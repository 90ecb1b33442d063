"""A model repository as Triton and this backend will read it: config.pbtxt, versions, model.json, model directory.

Opens no weights: what the engine makes of a model is asked in its own interpreter (model_probe.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flover_backend.config import ModelJson, load_model_json
from flover_backend.doctor.config_pbtxt import ConfigUnread, read_config_pbtxt
from flover_backend.errors import ConfigError
from flover_backend.front.model_dir import model_dir_of_repository
from flover_backend.front.tensors import INPUTS, OUTPUTS, check_model_config
from flover_backend.front.tokenizer import load_tokenizer
from flover_backend.host.checks import Check

OWN_BACKEND = "flover"
TENSORS = {"input": INPUTS, "output": OUTPUTS}
SETTINGS: dict[str, Any] = {"model_transaction_policy": {"decoupled": True}, "max_batch_size": 0}
LOAD_S = 20.0
"""What a load and a death soon after it may take, as far as restarts are counted."""
OF_TRITON = ("dynamic_batching", "sequence_batching", "ensemble_scheduling", "response_cache")
"""Parts of config.pbtxt that this backend cannot serve under, or that would change what it does."""


@dataclass
class ModelVersion:
    """A version folder that can be served, as far as its files tell."""

    name: str
    """`flover` or `flover version 2`."""
    config: ModelJson
    model_dir: Path
    instances: int


@dataclass
class FoundModel:
    """What was found of one model, checks and all."""

    name: str
    checks: list[Check] = field(default_factory=list)
    versions: list[ModelVersion] = field(default_factory=list)
    instances: int = 0


def find_models(repository: Path, *, has_backend: bool) -> list[FoundModel]:
    """The models of this backend. Raises `ConfigError` when there are none. `has_backend`: the server has it."""
    if not repository.is_dir():
        raise ConfigError(f"{repository} is no directory; --repository takes a model repository")
    own_folder = (repository / "config.pbtxt").is_file() or bool(_version_folders(repository))
    folders = [repository] if own_folder else sorted(path for path in repository.iterdir() if path.is_dir())
    models = []
    for folder in folders:
        try:
            models += [found for found in [_look(folder.resolve(), has_backend)] if found is not None]
        except OSError as error:
            check = Check("fail", "versions", f"{folder} cannot be read: {error}", "run this as the server's user")
            models.append(FoundModel(folder.name, [check]))
    if not models:
        names = ", ".join(folder.name for folder in folders) or "nothing"
        raise ConfigError(
            f"{repository} holds no model of this backend (it holds {names}); a model is a folder with config.pbtxt "
            f'(backend: "{OWN_BACKEND}") and 1/model.json, or with 1/model.py as in model_repository/flover'
        )
    return models


def lone_model(model: str, instances: int) -> FoundModel:
    """A model directory with every other setting at its default."""
    found = FoundModel(model, instances=instances)
    path = os.path.abspath(model) if os.path.isdir(model) else model
    config = ModelJson(model=path)
    _add_version(found, model, config, Path.cwd())
    return found


def _look(folder: Path, has_backend: bool) -> FoundModel | None:
    """None for a model of another backend."""
    found = FoundModel(folder.name)
    path = folder / "config.pbtxt"
    config: dict[str, Any] | None = {}
    try:
        config = read_config_pbtxt(path.read_text()) if path.is_file() else {}
    except (ConfigError, OSError, UnicodeDecodeError) as error:
        found.checks.append(Check("fail", "config.pbtxt", f"{path}: {error}", "mend it; Triton would not load it"))
        config = None
    except ConfigUnread as error:
        advice = "pip install 'tritonclient[grpc]' for the doctor"
        found.checks.append(Check("warn", "config.pbtxt", f"not read: {error}", advice))
        config = None
    if not _is_ours(folder, config):
        return None
    if config is not None:
        found.checks += _check_config(folder, config, has_backend=has_backend, present=path.is_file())
        found.instances = _count(config)
    versions = _served(folder, config or {})
    if not versions:
        names = ", ".join(version.name for version in _version_folders(folder)) or "none"
        text = f"{folder} has no version folder that its version_policy serves (it has {names})"
        found.checks.append(Check("fail", "versions", text, "put model.json into a folder named 1"))
    for version in versions:
        _look_at_version(found, version, len(versions) > 1)
    return found


def _is_ours(folder: Path, config: dict[str, Any] | None) -> bool:
    if config is not None and config.get("backend") == OWN_BACKEND:
        return True
    if config is not None and config.get("backend", "python") != "python":
        return False
    return any("flover_backend" in _text(version / "model.py") for version in _version_folders(folder)) or (
        any((version / "model.json").is_file() for version in _version_folders(folder))
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _version_folders(folder: Path) -> list[Path]:
    """Triton's rule: their names are numbers above 0 without a leading 0."""
    numbers = [path for path in folder.iterdir() if path.is_dir() and path.name.isdigit() and path.name[0] != "0"]
    return sorted(numbers, key=lambda path: int(path.name))


def _served(folder: Path, config: dict[str, Any]) -> list[Path]:
    """The versions that Triton would load: the latest one, or as `version_policy` says."""
    versions = _version_folders(folder)
    policy = config.get("version_policy", {})
    if "all" in policy:
        return versions
    if "specific" in policy:
        wanted = [str(number) for number in policy["specific"].get("versions", ())]
        return [version for version in versions if version.name in wanted]
    return versions[-max(1, int(policy.get("latest", {}).get("num_versions", 1))) :]


def _check_config(folder: Path, config: dict[str, Any], *, has_backend: bool, present: bool) -> list[Check]:
    faults = list(_config_faults(folder, config))
    if has_backend is False and config.get("backend") == OWN_BACKEND:
        text = f'backend: "{OWN_BACKEND}", and the server has no backends/{OWN_BACKEND}/model.py'
        faults.append(Check("fail", "config.pbtxt", text, "run deploy/install.py, or give --server-root"))
    if any(check.level == "fail" for check in faults):
        return faults
    shown = f"{_count(config)} instance{'s' * (_count(config) != 1)}"
    if not _is_complete(config):
        text = f"{'not all is declared' if present else 'not there'}: Triton completes it; {shown}"
        advice = "a server with --disable-auto-complete-config needs it in full: docs/deploy.md"
        return [*faults, Check("ok" if present else "warn", "config.pbtxt", text, "" if present else advice)]
    return [*faults, Check("ok", "config.pbtxt", f"complete; {shown}, kind {_kinds(config)}")]


def _config_faults(folder: Path, config: dict[str, Any]) -> list[Check]:
    """Everything that would fail a load, or serve otherwise than meant."""
    found = []
    name = "config.pbtxt"
    if config.get("name", folder.name) != folder.name:
        text = f"name: {config['name']!r}, the folder is {folder.name!r}"
        found.append(Check("fail", name, text, "name it as the folder, or leave the name out"))
    found += [Check("fail", name, text, advice) for text, advice in _contradictions(config)]
    for part in OF_TRITON:
        if part in config:
            text = f"{part} is set; the engine fuses requests itself and answers decoupled"
            found.append(Check("fail", name, text, f"take {part} out"))
    if "KIND_GPU" in _kinds(config):
        text = "instance_group of KIND_GPU: Triton makes `count` fronts for each GPU, and fails the load without one"
        found.append(
            Check("warn", name, text, "kind: KIND_MODEL; which GPU the engine takes is not the fronts' affair")
        )
    return found


def _contradictions(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What fails a load, each on its own. What is left out, Triton's auto-completion puts in."""
    tensors = {}
    for kind, specs in TENSORS.items():
        given = {tensor.get("name", ""): tensor for tensor in config.get(kind, [])}
        known = [spec.as_config() | given.pop(spec.name, {}) for spec in specs]
        tensors[kind] = [*known, *given.values()]
    complete = {kind: [spec.as_config() for spec in specs] for kind, specs in TENSORS.items()} | SETTINGS
    advice = "take them from model_repository/flover/config.pbtxt, or leave them out"
    for part in (tensors, *({key: config[key]} for key in SETTINGS if key in config)):
        try:
            check_model_config(complete | part)
        except ConfigError as error:
            yield str(error).split(". This server ")[0].removeprefix("config.pbtxt: "), advice
        advice = "set it so, or leave it out"


def _is_complete(config: dict[str, Any]) -> bool:
    """Whether a server that completes nothing would load it."""
    names = [tensor.get("name") for kind in TENSORS for tensor in config.get(kind, [])]
    declared = all(spec.name in names for specs in TENSORS.values() for spec in specs)
    return declared and bool(config.get("backend")) and "model_transaction_policy" in config


def _count(config: dict[str, Any]) -> int:
    return sum(max(1, int(group.get("count", 1))) for group in config.get("instance_group", [])) or 1


def _kinds(config: dict[str, Any]) -> str:
    kinds = dict.fromkeys(str(group.get("kind", "KIND_AUTO")) for group in config.get("instance_group", []))
    return ", ".join(kinds) or "none"


def _look_at_version(found: FoundModel, version: Path, several: bool) -> None:
    name = f"{found.name} version {version.name}" if several else found.name
    path = version / "model.json"
    try:
        config = load_model_json(path)
    except (ConfigError, OSError) as error:
        advice = "mend it: docs/configuration.md says what each key takes"
        found.checks.append(Check("fail", "model.json", str(error), advice))
        return
    shown = "given: " + ", ".join(_given(config)) if _given(config) else "every key at its default"
    found.checks.append(Check("ok", "model.json", f"{path if path.is_file() else 'none'}: {shown}"))
    found.checks += _check_keys(config)
    _add_version(found, name, config, version)


def _given(config: ModelJson) -> list[str]:
    default = ModelJson()
    return [key for key in ModelJson.__struct_fields__ if getattr(config, key) != getattr(default, key)]


def _check_keys(config: ModelJson) -> list[Check]:
    """Keys that are within their ranges and still do not do what one may think."""
    found = []
    if config.engine_python is not None and not os.access(config.engine_python, os.X_OK):
        text = f"engine_python {config.engine_python} is no program"
        found.append(Check("fail", "model.json", text, "give the path of a Python 3.10+ with torch"))
    restarts, window_s = config.engine_restarts, config.engine_restart_window_s
    if restarts == 0:
        text = "engine_restarts is 0: the first death of an engine takes the model out of service"
        found.append(Check("warn", "model.json", text, "leave it out (3) unless something else reloads the model"))
    elif window_s < restarts * LOAD_S:
        text = f"engine_restart_window_s is {window_s:g}: an engine that dies in each load is started again for ever"
        advice = f"give at least {restarts * LOAD_S:g}, {LOAD_S:g} for each of engine_restarts {restarts}"
        found.append(Check("warn", "model.json", text, advice))
    return found


def _add_version(found: FoundModel, name: str, config: ModelJson, version: Path) -> None:
    try:
        model_dir = model_dir_of_repository(config.model, version)
        tokenizer = load_tokenizer(model_dir)
    except ConfigError as error:
        found.checks.append(Check("fail", "model", str(error), "mend `model` in model.json, or the directory"))
        return
    if tokenizer is None:
        text = f"no tokenizer.json in {model_dir}"
        found.checks.append(Check("warn", "tokenizer", text, "clients must send input_ids; put one there for text"))
    else:
        found.checks.append(Check("ok", "tokenizer", f"{model_dir / 'tokenizer.json'}"))
    found.versions.append(ModelVersion(name, config, model_dir, found.instances))
