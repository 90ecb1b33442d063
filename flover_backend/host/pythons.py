"""An interpreter asked what it is and has, by running probe.py with it. Imports nothing of what it reports."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


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


def ask(
    python: Path, library: str, packages: Path | None = None, environment: Mapping[str, str] | None = None
) -> PythonFacts:
    """Run probe.py with an interpreter, in `environment` (default: this one).

    PYTHONPATH is left out, as Triton's stub does, but for `packages`.
    """
    command = [str(python), str(Path(__file__).with_name("probe.py")), library]
    given = os.environ if environment is None else environment
    cleaned = {name: value for name, value in given.items() if name != "PYTHONPATH"}
    if packages is not None:
        cleaned["PYTHONPATH"] = str(packages)
    try:
        answer = subprocess.run(command, env=cleaned, capture_output=True, text=True, timeout=120, check=False, cwd="/")
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return PythonFacts(error=f"{python} does not answer: {error}")
    try:
        told: dict[str, Any] = json.loads(answer.stdout)
    except ValueError:
        said = (answer.stderr.strip().splitlines() or ["it says nothing of what a Python would"])[-1]
        return PythonFacts(error=f"{python} is no Python that works: exit status {answer.returncode}, {said}")
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in told.items()}
    return PythonFacts(**values)


def version_tuple(text: str) -> tuple[int, ...]:
    """(2, 11) for `2.11+cpu` and `2.11rc1`."""
    return tuple(int(part) for part in re.findall(r"\d+", re.split(r"[+a-z]", text)[0]))
