#!/usr/bin/env python3
"""Programs of Debian packages, unpacked into the cache: nothing is installed, no service is started.

    python scripts/debian_tools.py prometheus promtool kubectl     # prints where each is

A program that is on PATH is taken as it is. Knows apt-get and dpkg; not what the programs are for.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("FLOVER_DEBIAN_CACHE", REPOSITORY / ".cache" / "debian"))
PACKAGES = {"prometheus": "prometheus", "promtool": "prometheus", "kubectl": "kubernetes-client"}
TIMEOUT_S = 300


class NoProgram(Exception):
    """It is not here and cannot be had; the text says why, and what to do."""


def find(program: str) -> Path:
    """The program, from PATH, the cache or Debian's archive (tens of MB, once). Raises `NoProgram`."""
    package = PACKAGES[program]
    on_path = shutil.which(program)
    if on_path is not None:
        return Path(on_path)
    place = CACHE / package
    if not place.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with (CACHE / f"{package}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not place.is_dir():
                _unpack(package, place)
    return place / "usr" / "bin" / program


def _unpack(package: str, place: Path) -> None:
    """Into a folder beside `place`, which then takes its name: a half unpacked one is never seen."""
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise NoProgram(f"no {tool} here, and {package} is not on PATH: install {package} by hand")
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        archive = _download(package, Path(folder))
        _run(["dpkg-deb", "-x", str(archive), f"{folder}/files"], folder)
        Path(folder, "files").rename(place)


def _download(package: str, folder: Path) -> Path:
    """The package's file. A machine that has never read Debian's lists reads them first, which takes root."""
    command = ["apt-get", "-o", "Acquire::Retries=3", "download", "-qq", package]
    try:
        _run(command, str(folder))
    except NoProgram:
        if os.geteuid() != 0:
            raise
        _run(["apt-get", "update", "-qq"], str(folder))
        _run(command, str(folder))
    return next(folder.glob("*.deb"))


def _run(command: list[str], folder: str) -> None:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=True,
        )
    except subprocess.TimeoutExpired:
        raise NoProgram(f"{' '.join(command)} took over {TIMEOUT_S} s") from None
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or [f"ended with {error.returncode}"]
        raise NoProgram(f"{' '.join(command)}: {lines[-1]}") from None


if __name__ == "__main__":
    try:
        for name in sys.argv[1:]:
            print(find(name))
    except (NoProgram, KeyError) as error:
        raise SystemExit(f"debian_tools: {error}; known programs: {', '.join(PACKAGES)}") from None
