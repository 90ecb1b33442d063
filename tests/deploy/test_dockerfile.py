"""deploy/Dockerfile as far as it can be checked without Docker: Docker's parser reads it, what it copies exists and is
enough for its install command, and its commands name flags that there are.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import dockerfile
import pytest
from installing import QUICK
from live_server import ROOT, TRITON
from server_root import ServerRoot, make_server_root

from flover_install.options import options_from, parser

DOCKERFILE = ROOT / "deploy" / "Dockerfile"


def commands(name: str) -> list[dockerfile.Command]:
    return [command for command in dockerfile.parse_file(str(DOCKERFILE)) if command.cmd == name]


def arguments() -> dict[str, str]:
    """Build arguments and their defaults."""
    return {name: value.strip('"') for name, _, value in (line.value[0].partition("=") for line in commands("ARG"))}


def install_command() -> list[str]:
    """The words of the one RUN line, build arguments filled in."""
    (run,) = commands("RUN")
    text = re.sub(r"\$\{(\w+)\}", lambda found: arguments()[found.group(1)], run.value[0])
    return shlex.split(text.replace("\\\n", " "))


def test_it_starts_from_nvidias_image_which_an_argument_names() -> None:
    (image,) = commands("FROM")
    assert image.value == ("${TRITON_IMAGE}",)
    assert arguments()["TRITON_IMAGE"] == "nvcr.io/nvidia/tritonserver:24.10-py3"
    order = [command.cmd for command in dockerfile.parse_file(str(DOCKERFILE))]
    assert order[:2] == ["ARG", "FROM"]  # an ARG before FROM is the only kind that FROM sees


def test_each_thing_that_it_copies_exists_and_is_not_ignored() -> None:
    lines = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text().split()
    assert lines[0] == "*"
    copied = [source for command in commands("COPY") for source in command.value[:-1]]
    assert [source for source in copied if not (ROOT / source).exists()] == []
    assert sorted(copied) == sorted(line[1:] for line in lines if line.startswith("!"))


def test_its_install_command_is_one_of_the_script() -> None:
    python, script, *flags = install_command()
    assert python == "python3"
    assert (ROOT / Path(script).relative_to("/opt/flover-backend")).is_file()
    given = options_from(parser().parse_args(flags))
    assert (given.device, str(given.model_repository)) == ("gpu", "/models")


def test_its_start_command_has_flags_of_tritonserver(tmp_path: Path) -> None:
    (start,) = commands("CMD")
    assert start.json and start.value[0] == "tritonserver"
    environment = make_server_root(tmp_path, with_package=False).environment()
    program = [str(TRITON / "bin" / "tritonserver"), "--help"]
    answer = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    known = answer.stdout + answer.stderr
    assert [flag for flag in start.value[1:] if flag.split("=")[0] not in known] == []
    assert "--model-repository=/models" in start.value and "--load-model=flover" in start.value


@pytest.mark.slow
def test_what_it_copies_is_enough_for_its_install_command(tmp_path: Path) -> None:
    """The COPY lines into a folder that stands for the image, then the RUN line there."""
    image = tmp_path / "image"
    skipped = shutil.ignore_patterns("__pycache__")
    for command in commands("COPY"):
        *sources, target = command.value
        for source in sources:
            place = image / target.lstrip("/") / (source if target.endswith("/") else "")
            place.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copyfile if (ROOT / source).is_file() else shutil.copytree)(
                ROOT / source, place, **({} if (ROOT / source).is_file() else {"ignore": skipped})
            )
    root: ServerRoot = make_server_root(tmp_path / "server", with_package=False)
    (tmp_path / "models").mkdir()
    _, script, *flags = install_command()
    moved = [str(tmp_path / "models") if flag == "/models" else "cpu" if flag == "gpu" else flag for flag in flags]
    command = [str(root.python), str(image / script.lstrip("/")), "--server-root", str(root.root), *moved, *QUICK]
    answer = subprocess.run(command, env=root.environment(), capture_output=True, text=True, check=False, cwd="/")
    assert answer.returncode == 0, answer
    assert f"installed 0.1.0 in {root.backends / 'flover'}" in answer.stdout
    assert (tmp_path / "models" / "flover" / "config.pbtxt").is_file()
