"""Which directory the `model` key of model.json means."""

from __future__ import annotations

from pathlib import Path

from flover_backend.bundled import names, path_of
from flover_backend.errors import ConfigError


def resolve_model_dir(model: str, version_dir: Path) -> Path:
    """A directory (absolute, or relative to the version folder), else the bundled model of that name.

    Raises `ConfigError` when there is neither.
    """
    directory = version_dir / model
    if directory.is_dir():
        return directory.resolve()
    if model not in names():
        raise ConfigError(
            f"model: {directory} is no directory; allowed: a Hugging Face directory, absolute or relative to "
            f"{version_dir}, or a bundled model: {', '.join(names())}"
        )
    return path_of(model)


def model_dir_of_repository(model: str, version_dir: Path) -> Path:
    """The same for the model.json of a model repository, which may lead out of it only by an absolute path.

    `version_dir` is REPOSITORY/MODEL/VERSION. A relative path, symbolic links followed, stays inside REPOSITORY: what
    somebody else packed must not have the server read elsewhere. Raises `ConfigError`.
    """
    found = resolve_model_dir(model, version_dir)
    repository = version_dir.parent.parent.resolve()
    is_relative = not Path(model).is_absolute() and (version_dir / model).is_dir()
    if is_relative and not found.is_relative_to(repository):
        raise ConfigError(
            f"model: {model!r} leads to {found}, outside of the model repository {repository}; allowed: a path that "
            "stays inside it, or an absolute path"
        )
    return found
