"""Runs deploy/install.py as an operator does, and compares folders before and after."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from live_server import ROOT
from server_root import ServerRoot

PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
SCRIPT = ROOT / "deploy" / "install.py"
QUICK = ("--no-deps", "--pip-arg=--no-build-isolation")
"""The dependencies are in the tests' environment already, and so is setuptools."""


@dataclass(frozen=True)
class Ran:
    """One run of the script."""

    status: int
    lines: list[str]
    errors: str

    def failed(self) -> list[str]:
        return [line for line in self.lines if line.startswith("fail ")]


def run_install(root: ServerRoot, *flags: str, environment: dict[str, str] | None = None) -> Ran:
    """With the Python and the environment of the server."""
    command = [str(root.python), str(SCRIPT), "--server-root", str(root.root), *flags]
    answer = subprocess.run(
        command, env=environment or root.environment(), capture_output=True, text=True, check=False, cwd="/"
    )
    return Ran(answer.returncode, answer.stdout.splitlines(), answer.stderr)


def snapshot(*folders: Path) -> dict[str, str]:
    """Every file, link and folder below: what it holds."""
    found = {}
    for path in [path for folder in folders for path in [folder, *sorted(folder.rglob("*"))]]:
        if path.is_symlink():
            found[str(path)] = f"-> {os.readlink(path)}"
        else:
            kind = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
            found[str(path)] = f"{kind} {path.stat().st_mode:o}"
    return found


def build_wheels(folder: Path, *projects: str) -> list[Path]:
    """Wheels of projects of this repository, made from a copy of its tracked files: none of an older build."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    source = folder / "source"
    for name in listed.split("\0"):
        if (name.startswith(("flover_backend/", "client/")) or "/" not in name) and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [*PIP, "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder / "wheels")]
    subprocess.run([*command, *(str(source / project) for project in projects)], check=True)
    return sorted((folder / "wheels").iterdir())
