"""The package as pip installs it, not editable: everything that it needs of itself is in the wheel."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from installing import PIP, build_wheels
from live_server import ROOT

CHECK = """
import pathlib, flover_backend
from flover_backend import bundled, server_files
root = pathlib.Path(flover_backend.__file__).parent
assert root.parent == pathlib.Path({target!r}), root
assert (root / "py.typed").is_file()
assert server_files.MODEL_PY.is_file() and root in server_files.MODEL_PY.parents
from flover_backend.front.tokenizer import load_tokenizer
from flover_backend.front.model_dir import resolve_model_dir
for name in {models!r}:
    folder = resolve_model_dir(name, pathlib.Path("/nowhere"))
    assert root in folder.parents and (folder / "model.safetensors").is_file(), name
    assert load_tokenizer(folder) is not None, name
print(sorted(bundled.names()))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that pip installed this project and its client into, from the wheels of a clean source tree."""
    folder = tmp_path_factory.mktemp("package")
    wheels = build_wheels(folder, ".", "client")
    install = [*PIP, "install", "--no-deps", "--target", str(folder / "site"), *map(str, wheels)]
    subprocess.run(install, check=True)
    return folder / "site"


def test_every_tracked_file_of_the_package_is_installed(installed: Path) -> None:
    listed = subprocess.run(["git", "ls-files", "flover_backend"], cwd=ROOT, capture_output=True, text=True, check=True)
    lost = [name for name in listed.stdout.split() if (ROOT / name).is_file() and not (installed / name).is_file()]
    assert lost == []


def test_it_works_from_where_it_is_installed(installed: Path) -> None:
    models = sorted(path.parent.name for path in (ROOT / "flover_backend" / "bundled").glob("*/config.json"))
    code = CHECK.format(target=str(installed), models=models)
    answer = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(installed)!r})\n{code}"],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    assert (answer.returncode, answer.stdout.strip()) == (0, str(models)), answer.stderr


def test_the_command_is_installed(installed: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(installed)!r}); from flover_backend.cli import main; main()"
    command = [sys.executable, "-c", code, "serve", "--help"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert answer.returncode == 0 and "--instances" in answer.stdout


def test_the_client_is_installed_with_its_types(installed: Path) -> None:
    assert (installed / "flover_client" / "py.typed").is_file()
