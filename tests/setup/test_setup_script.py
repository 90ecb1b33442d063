"""scripts/setup.py: which commands it runs in which situation, and what it says when one fails.

The commands are recorded, not run: that the whole works from nothing is shown by `make test` itself on a new machine.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
Answer = Callable[[list[str]], int]


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, with its `.venv` in a folder of the test and no GPU."""
    spec = importlib.util.spec_from_file_location("setup_script", REPOSITORY / "scripts" / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.VENV = tmp_path / ".venv"
    module.STAMP = module.VENV / "stamp.json"
    monkeypatch.setattr(module, "torch_build", lambda: "cpu")
    monkeypatch.delenv("FLOVER_TORCH_INDEX", raising=False)
    return module


@pytest.fixture
def commands(setup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Every command that the script would have run; all succeed and `venv` makes a python."""
    return record(setup, monkeypatch, lambda command: 0)


def record(setup: ModuleType, monkeypatch: pytest.MonkeyPatch, answer: Answer) -> list[list[str]]:
    ran: list[list[str]] = []

    def fake_run(command: list[str], **options: object) -> SimpleNamespace:
        ran.append([str(word) for word in command])
        if "venv" in command:
            (setup.VENV / "bin").mkdir(parents=True)
            (setup.VENV / "bin" / "python").touch()
        return SimpleNamespace(returncode=answer(ran[-1]))

    monkeypatch.setattr(setup, "subprocess", SimpleNamespace(run=fake_run, DEVNULL=subprocess.DEVNULL))
    return ran


def torch_commands(commands: list[list[str]]) -> list[list[str]]:
    return [command for command in commands if any(word.startswith("torch==") for word in command)]


def test_a_second_run_with_nothing_changed_runs_nothing(setup: ModuleType, commands: list[list[str]]) -> None:
    setup.main()
    assert [command for command in commands if "venv" in command]
    commands.clear()
    setup.main()
    assert commands == []


def test_a_changed_lock_installs_again_into_the_same_venv(setup: ModuleType, commands: list[list[str]]) -> None:
    setup.main()
    setup.STAMP.write_text(json.dumps(json.loads(setup.STAMP.read_text()) | {"packages": "older"}))
    commands.clear()
    setup.main()
    assert [command for command in commands if "venv" in command] == []
    assert torch_commands(commands)


def test_another_torch_source_starts_from_an_empty_venv(
    setup: ModuleType, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    setup.main()
    commands.clear()
    monkeypatch.setenv("FLOVER_TORCH_INDEX", "https://index.example/cu130")
    (setup.VENV / "bin" / "python").unlink()
    (setup.VENV / "bin").rmdir()
    setup.main()
    assert [command for command in commands if "--clear" in command]


def test_a_failed_install_leaves_no_stamp(setup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    record(setup, monkeypatch, lambda command: int("install" in command))
    with pytest.raises(SystemExit, match="set-up failed: installing packages"):
        setup.main()
    assert not setup.STAMP.exists()


def test_without_a_gpu_the_cpu_build_comes_from_where_pip_looks(setup: ModuleType, commands: list[list[str]]) -> None:
    setup.install_torch("torch==2.13.0", "")
    (command,) = commands
    assert command[-1] == "torch==2.13.0+cpu"
    assert "--index-url" not in command


def test_without_a_gpu_and_without_a_cpu_build_there_pytorchs_cpu_index_is_asked(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = record(setup, monkeypatch, lambda command: int("--index-url" not in command))
    setup.install_torch("torch==2.13.0", "")
    first, second = commands
    assert first[-1] == second[-1] == "torch==2.13.0+cpu"
    assert second[second.index("--index-url") + 1] == "https://download.pytorch.org/whl/cpu"


def test_the_variable_names_the_index(setup: ModuleType, commands: list[list[str]]) -> None:
    setup.install_torch("torch==2.13.0", "https://index.example/cu130")
    (command,) = commands
    assert command[command.index("--index-url") + 1] == "https://index.example/cu130"
    assert command[-1] == "torch==2.13.0"


def test_with_a_gpu_torch_comes_with_its_cuda_packages(
    setup: ModuleType, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "torch_build", lambda: "default")
    setup.install_torch("torch==2.13.0", "")
    (command,) = commands
    assert command[-1] == "torch==2.13.0"
    assert "--no-deps" not in command


def lacking(setup: ModuleType, monkeypatch: pytest.MonkeyPatch, *, user: int) -> None:
    """The distribution's Python without venv and libpython, used by `user`."""
    monkeypatch.setattr(setup.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(setup, "has_libpython", lambda: False)
    monkeypatch.setattr(setup, "is_distribution_python", lambda: True)
    monkeypatch.setattr(setup.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(setup.os, "geteuid", lambda: user)


def test_root_on_debian_gets_the_missing_packages(
    setup: ModuleType, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []
    lacking(setup, monkeypatch, user=0)
    monkeypatch.setattr(setup.os, "execv", lambda path, arguments: started.append(arguments))
    setup.provide_system_packages()
    assert commands[-1][-2:] == ["python3.11-venv", "libpython3.11"]
    assert started[0][-1] == "--after-apt"


def test_another_user_is_told_the_command(
    setup: ModuleType, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking(setup, monkeypatch, user=1000)
    with pytest.raises(SystemExit, match=r"Run: sudo apt-get install python3\.11-venv libpython3\.11"):
        setup.provide_system_packages()
    assert commands == []


def test_another_release_of_python_is_refused(setup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "PYTHON_SERIES", (3, 99))
    with pytest.raises(SystemExit, match=r"no python3\.99 is on PATH"):
        setup.use_locked_python()


def test_a_failing_step_names_itself_its_command_and_what_to_do(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record(setup, monkeypatch, lambda command: 28)
    with pytest.raises(SystemExit, match=r"making a cake ended with 28 \(bake it\)\. Buy flour"):
        setup.run("making a cake", ["bake", "it"], "Buy flour")
    assert "set-up: making a cake" in capsys.readouterr().out
