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
