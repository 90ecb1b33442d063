"""--engine-python: the stub's Python has no torch; the engine runs in another interpreter, which is not changed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from installing import build_wheels, run_install, snapshot
from live_server import SITE_PACKAGES, command_line
from server_root import ServerRoot, make_server_root, make_venv
from triton_client import ask, ids_of

FRONT = ("numpy", "numpy.libs", "msgspec", "tokenizers", "pip")
"""What the stub's Python has here: the front's packages, and pip."""


def front_packages(folder: Path) -> Path:
    folder.mkdir()
    for name in FRONT:
        found = [SITE_PACKAGES / name, *SITE_PACKAGES.glob(f"{name.replace('-', '_')}-*.dist-info")]
        for source in [path for path in found if path.exists()]:
            (folder / source.name).symlink_to(source)
    return folder


@pytest.mark.slow
def test_the_engine_runs_in_the_python_that_has_torch(tmp_path: Path) -> None:
    made = make_server_root(tmp_path, with_package=False)
    root = ServerRoot(made.root, make_venv(tmp_path / "front", [front_packages(tmp_path / "front-packages")]))
    engine = make_venv(tmp_path / "engine", [SITE_PACKAGES]) / "bin" / "python3"
    models = tmp_path / "models"
    models.mkdir()
    (wheel,) = build_wheels(tmp_path, ".")
    flags = ("--package", str(wheel), "--no-deps", "--model-repository", str(models))
    before = snapshot(root.root, root.venv, engine.parent.parent, models)

    without = run_install(root, *flags)
    assert without.status == 1 and "lacks torch>=2.11 (none)" in without.failed()[0]

    ran = run_install(root, *flags, "--engine-python", str(engine))
    assert ran.status == 0, ran.errors
    again = run_install(root, "--package", str(wheel), "--model-repository", str(models))
    assert again.lines[-1].startswith("nothing to change"), again
    with root.serving(tmp_path / "server", models, ["flover"]) as server:
        server.wait_ready()
        assert len(ids_of(ask(server.grpc_url, "And God said", {"max_tokens": 4, "ignore_eos": True}))) == 4
        engines = [pid for pid in server.descendants() if "flover_backend.engine.process" in command_line(pid)]
        installed = root.backends / "flover" / "engine"
        assert [command_line(pid)[0] for pid in engines] == [str(installed / "bin" / "python3")]
        maps = Path(f"/proc/{engines[0]}/maps").read_text()
        assert str(SITE_PACKAGES / "torch") in maps and "front-packages" not in maps
    assert run_install(root, *flags, "--remove").lines == ["removed"]
    assert snapshot(root.root, root.venv, engine.parent.parent, models) == before


OTHER = Path(os.environ.get("FLOVER_OTHER_PYTHON", "/usr/bin/python3.10"))


@pytest.mark.slow
@pytest.mark.skipif(not OTHER.exists(), reason=f"no {OTHER}; FLOVER_OTHER_PYTHON names a Python with its libpython")
def test_a_stub_of_another_python_as_in_nvidias_images(tmp_path: Path) -> None:
    """24.10's image has Python 3.10, later ones 3.12: the front runs on it, with packages that pip brings."""
    models = tmp_path / "models"
    models.mkdir()
    code = "import sysconfig as s; print(s.get_python_version(), s.get_config_var('LIBDIR'))"
    answer = subprocess.run([str(OTHER), "-c", code], capture_output=True, text=True, check=True)
    release, libraries = answer.stdout.split()
    root = make_server_root(tmp_path, with_package=False, release=release)
    subprocess.run([str(OTHER), "-m", "venv", "--clear", str(root.venv)], check=True)
    subprocess.run([str(root.python), "-m", "pip", "install", "-q", "numpy<2"], check=True)
    environment = root.environment()
    environment["LD_LIBRARY_PATH"] = f"{libraries}:{environment['LD_LIBRARY_PATH']}"
    flags = ("--model-repository", str(models), "--engine-python", sys.executable)
    ran = run_install(root, *flags, environment=environment)
    assert ran.status == 0, ran.errors
    with root.serving(tmp_path / "server", models, ["flover"], environment=environment) as server:
        server.wait_ready()
        assert len(ids_of(ask(server.grpc_url, "And God said", {"max_tokens": 4, "ignore_eos": True}))) == 4
    assert run_install(root, *flags, "--remove", environment=environment).lines == ["removed"]
