"""deploy/install.py for real: into a server root made of the wheel's files, again, over an older one, and out again."""

from __future__ import annotations

import json
import subprocess
import zipfile
from pathlib import Path

import pytest
from installing import QUICK, SCRIPT, build_wheels, run_install, snapshot
from live_server import ROOT, LiveServer, wait_for
from server_root import ServerRoot, make_server_root
from triton_client import ask, ids_of, post

GREEDY = {"temperature": 0, "max_tokens": 4, "ignore_eos": True}


@pytest.fixture
def root(tmp_path: Path) -> ServerRoot:
    (tmp_path / "models").mkdir()
    return make_server_root(tmp_path, with_package=False)


@pytest.fixture
def flags(tmp_path: Path) -> tuple[str, ...]:
    return (*QUICK, "--model-repository", str(tmp_path / "models"))


def older_release(folder: Path, **changed: str) -> str:
    """A wheel of the same package, of another version and with a module that the new one lacks; pip builds nothing.

    `changed`: other content for modules of the front.
    """
    wheel = folder / "flover_backend-0.0.9-py3-none-any.whl"
    info = "flover_backend-0.0.9.dist-info"
    files = {f"{info}/METADATA": "Metadata-Version: 2.1\nName: flover-backend\nVersion: 0.0.9\n"}
    files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files["flover_backend/gone.py"] = ""
    sources = [path for path in (ROOT / "flover_backend").rglob("*.py") if "bench" not in str(path)]
    files |= {str(path.relative_to(ROOT)): path.read_text() for path in sources}
    files |= {f"flover_backend/front/{name}.py": text for name, text in changed.items()}
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"]))
    return str(wheel)


def one_answer(server: LiveServer) -> None:
    server.wait_ready()
    assert len(ids_of(ask(server.grpc_url, "And God said", GREEDY))) == 4
    status, text = post(f"{server.http_url}/v2/models/flover/generate", {"text_input": "And God said", "max_tokens": 1})
    assert status == 200 and json.loads(text)["text_output"].startswith("And God said")


def packages_of_the_engine(server: LiveServer) -> list[str]:
    """What the engine process was given to import from, first."""
    environments = [Path(f"/proc/{pid}/environ").read_text().split("\0") for pid in server.descendants()]
    paths = [line for lines in environments for line in lines if line.startswith("PYTHONPATH=")]
    return [path.removeprefix("PYTHONPATH=").split(":")[0] for path in paths]


def test_a_life_of_an_installation(root: ServerRoot, flags: tuple[str, ...], tmp_path: Path) -> None:
    """Older version, new over it, a run that has nothing to do, serving, removal: then all is as it was."""
    before = snapshot(root.root, root.venv, tmp_path / "models")
    first = run_install(root, *flags, "--package", older_release(tmp_path), "--instances", "2")
    assert first.status == 0, first
    home = root.backends / "flover"
    assert f"installed 0.0.9 in {home}" in first.lines
    assert (home / "site-packages" / "flover_backend" / "gone.py").exists()

    upgrade = run_install(root, *flags)
    assert upgrade.status == 0 and f"installed 0.1.0 in {home} over 0.0.9" in upgrade.lines, upgrade
    assert not (home / "site-packages" / "flover_backend" / "gone.py").exists()
    assert "count: 2" in (tmp_path / "models" / "flover" / "config.pbtxt").read_text()
    assert snapshot(root.venv) == {path: mark for path, mark in before.items() if path.startswith(str(root.venv))}

    installed = snapshot(root.root, tmp_path / "models")
    again = run_install(root, *flags)
    assert again.status == 0 and again.lines[-1] == f"nothing to change: 0.1.0 is installed in {home}"
    assert snapshot(root.root, tmp_path / "models") == installed

    options = ("--disable-auto-complete-config",)
    with root.serving(tmp_path / "server", tmp_path / "models", ["flover"], *options) as server:
        one_answer(server)
        assert packages_of_the_engine(server) == [str(home / "site-packages")]

    removed = run_install(root, *flags, "--remove")
    assert (removed.status, removed.lines) == (0, ["removed"])
    assert snapshot(root.root, root.venv, tmp_path / "models") == before
    nothing = run_install(root, *flags, "--remove")
    assert nothing.status == 0 and nothing.lines[0].startswith("nothing to remove")


def test_what_was_edited_is_kept_and_named(root: ServerRoot, flags: tuple[str, ...], tmp_path: Path) -> None:
    package = ("--package", older_release(tmp_path))
    assert run_install(root, *flags, *package).status == 0
    model_json = tmp_path / "models" / "flover" / "1" / "model.json"
    model_json.write_text('{"max_rows": 8}')
    foreign = root.backends / "flover" / "site-packages" / "of-somebody-else.txt"
    foreign.write_text("mine")
    again = run_install(root, *flags, *package, "--model", "llama-demo")
    assert again.status == 0 and f"kept {model_json} (edited since it was made)" in again.lines
    assert model_json.read_text() == '{"max_rows": 8}'
    removed = run_install(root, *flags, "--remove")
    assert removed.status == 0
    assert f"left {model_json} (changed since)" in removed.lines
    assert f"left {foreign} (not made by this script)" in removed.lines
    assert removed.lines[-1] == "removed, but for what is named above"
    assert [path for path in (tmp_path / "models").rglob("*") if path.is_file()] == [model_json]
    assert [path for path in (root.backends / "flover").rglob("*") if path.is_file()] == [foreign]


def test_a_step_that_fails_leaves_nothing(root: ServerRoot, flags: tuple[str, ...], tmp_path: Path) -> None:
    broken = older_release(tmp_path, service="import no_such_module\n")
    before = snapshot(root.root, tmp_path / "models")
    ran = run_install(root, *flags, "--package", broken)
    assert ran.status == 1 and "No module named 'no_such_module'" in ran.errors
    assert snapshot(root.root, tmp_path / "models") == before


def test_a_model_folder_that_cannot_be_made_leaves_nothing(
    root: ServerRoot, flags: tuple[str, ...], tmp_path: Path
) -> None:
    package = ("--package", older_release(tmp_path))
    nowhere = tmp_path / "nowhere"
    nowhere.symlink_to(tmp_path / "gone")  # passes the checks, and no folder can be made there
    before = snapshot(root.root)
    first = run_install(root, *flags, *package, "--model-repository", str(nowhere))
    assert first.status == 1 and "File exists" in first.errors
    assert snapshot(root.root) == before
    assert run_install(root, *flags, *package).status == 0
    assert run_install(root, *flags, *package, "--model-repository", str(nowhere), "--name", "b").status == 1
    assert run_install(root, *flags, "--remove").lines == ["removed"]
    assert snapshot(root.root) == before


@pytest.mark.slow
def test_a_run_that_was_killed_is_cleared_away_by_the_next(
    root: ServerRoot, flags: tuple[str, ...], tmp_path: Path
) -> None:
    before = snapshot(root.root)
    (root.backends / "flover" / ".staging" / "half").mkdir(parents=True)
    assert run_install(root, *flags, "--package", older_release(tmp_path)).status == 0
    assert run_install(root, *flags, "--remove").lines == ["removed"]
    assert snapshot(root.root) == before


@pytest.mark.slow
def test_the_repository_layout_leaves_the_backend_directory_alone(
    root: ServerRoot, flags: tuple[str, ...], tmp_path: Path
) -> None:
    before = snapshot(root.root, root.venv, tmp_path / "models")
    ran = run_install(root, *flags, "--layout", "repository")
    assert ran.status == 0, ran
    assert snapshot(root.backends).items() <= before.items()
    assert 'backend: "python"' in (tmp_path / "models" / "flover" / "config.pbtxt").read_text()
    with root.serving(tmp_path / "server", tmp_path / "models", ["flover"]) as server:
        one_answer(server)
        assert packages_of_the_engine(server) == [str(root.root / "flover" / "site-packages")]
    assert run_install(root, *flags, "--layout", "repository", "--remove").lines == ["removed"]
    assert snapshot(root.root, root.venv, tmp_path / "models") == before


@pytest.mark.slow
def test_several_models_of_one_installation(root: ServerRoot, flags: tuple[str, ...], tmp_path: Path) -> None:
    before = snapshot(root.root, tmp_path / "models")
    assert run_install(root, *flags).status == 0
    second = run_install(root, *flags, "--name", "second", "--model", "llama-demo")
    assert second.status == 0 and f"made {tmp_path / 'models' / 'second' / 'config.pbtxt'}" in second.lines
    with root.serving(tmp_path / "server", tmp_path / "models", ["flover", "second"]) as server:
        one_answer(server)
        server.wait_ready("second")
    assert run_install(root, *flags, "--remove").lines == ["removed"]
    assert snapshot(root.root, tmp_path / "models") == before


@pytest.mark.slow
def test_a_server_goes_on_while_it_is_upgraded(root: ServerRoot, flags: tuple[str, ...], tmp_path: Path) -> None:
    """What is loaded answers as before; a reload takes the new packages."""
    (wheel,) = build_wheels(tmp_path, ".")
    assert run_install(root, *flags, "--package", str(wheel)).status == 0
    with root.serving(tmp_path / "server", tmp_path / "models", ["flover"]) as server:
        one_answer(server)
        upgraded = run_install(root, *flags)
        assert f"installed 0.1.0 in {root.backends / 'flover'} over 0.1.0" in upgraded.lines, upgraded
        one_answer(server)
        old = server.descendants()
        for action in ("unload", "load"):
            assert post(f"{server.http_url}/v2/repository/models/flover/{action}", {})[0] == 200
        one_answer(server)
        assert not set(old) & set(server.descendants())
    assert run_install(root, *flags, "--remove").lines == ["removed"]


@pytest.mark.slow
def test_a_run_that_is_ended_undoes_what_it_began(root: ServerRoot, flags: tuple[str, ...], tmp_path: Path) -> None:
    before = snapshot(root.root, tmp_path / "models")
    command = [str(root.python), str(SCRIPT), "--server-root", str(root.root), *flags]
    run = subprocess.Popen(
        command, env=root.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    wait_for((root.backends / "flover" / ".staging").exists, timeout_s=60)
    run.terminate()
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 1 and "interrupted; what was begun is undone" in errors
    assert snapshot(root.root, tmp_path / "models") == before
