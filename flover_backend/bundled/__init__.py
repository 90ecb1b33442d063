"""The models that come with the package, by name. Knows where they are; reads nothing. No torch."""

from __future__ import annotations

from pathlib import Path

from flover_backend.errors import ConfigError

ROOT = Path(__file__).resolve().parent


def names() -> list[str]:
    """Names of the bundled models, sorted."""
    return sorted(path.parent.name for path in ROOT.glob("*/config.json"))


def path_of(name: str) -> Path:
    """Hugging Face directory of the bundled model `name`. Raises `ConfigError`, naming those there are."""
    if name not in names():
        raise ConfigError(f"model {name!r} is no bundled model; allowed: a directory, or {', '.join(names())}")
    return ROOT / name
