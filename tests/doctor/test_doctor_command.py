"""`flover doctor` as a person and a program meet it: lines, a table on a terminal, JSON, exit statuses."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys

import pytest
from live_server import ROOT

from flover_backend.doctor import report
from flover_backend.doctor.command import main
from flover_backend.doctor.options import options_from, parser
from flover_backend.host.checks import Check

COMMAND = [sys.executable, "-m", "flover_backend.cli", "doctor"]
MODULE = [sys.executable, "-m", "flover_backend.doctor"]
GOOD = Check("ok", "glibc", "2.36")
ODD = Check("warn", "ports", "[8000] taken", "give others")
BAD = Check("fail", "NumPy", "2.1", "pip install 'numpy<2'")


def run(command: list[str], *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*command, *flags], capture_output=True, text=True, check=False, cwd=ROOT, timeout=300)


@pytest.mark.parametrize(
    "command", [COMMAND, pytest.param(MODULE, marks=pytest.mark.slow)], ids=["flover", "python -m"]
)
def test_the_shipped_repository_is_good_here(command: list[str]) -> None:
    answer = run(command, "--repository", "model_repository")
    assert answer.returncode == 0, answer
    lines = answer.stdout.splitlines()
    assert all(line.startswith(("ok   ", "warn ")) for line in lines[:-1])
    assert lines[-1].startswith("nothing failed: ")
    assert any(line.startswith("ok   model flover: memory: weights ") for line in lines)
    assert answer.stderr == ""


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--frobnicate"], "unrecognized arguments: --frobnicate"),
        (["--http-port", "70000"], "allowed are 0 .. 65535"),
        (["--device", "tpu"], "invalid choice: 'tpu'"),
        (["--instances", "0", "--model", "llama-demo"], "--instances: got 0"),
        (["--instances", "2"], "--instances goes with --model"),
    ],
)
def test_a_wrong_command_line(flags: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(flags, "flover doctor")
    assert ended.value.code == 2
    told = capsys.readouterr()
    assert said in told.err and "usage: flover doctor" in told.err and told.out == ""


def test_its_exit_status_is_2() -> None:
    assert run(COMMAND, "--frobnicate").returncode == 2


def test_help() -> None:
    answer = run(COMMAND, "--help")
    assert answer.returncode == 0
    for word in ("usage: flover doctor", "--repository", "--model", "--server-root", "--url", "--json", "Exit status"):
        assert word in answer.stdout


@pytest.mark.slow
def test_a_table_on_a_terminal() -> None:
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(
        [*COMMAND, "--repository", "/no/such", "--json"][:-1],
        stdout=slave, stderr=slave, stdin=subprocess.DEVNULL, cwd=ROOT, env=environment,
    ) as process:  # fmt: skip
        os.close(slave)
        shown = b""
        while True:
            try:
                part = os.read(master, 65536)
            except OSError:  # the other end is closed
                break
            shown += part
    os.close(master)
    assert process.returncode == 1
    text = shown.decode()
    assert "┌" in text and "/no/such is no directory" in text
    assert "looking at the server, the machine and the models" in text
    assert "1 check failed" in text.splitlines()[-1]


def test_lines_and_the_last_one(capsys: pytest.CaptureFixture[str]) -> None:
    report.show([("server", [GOOD, BAD]), ("machine", [ODD])])
    assert capsys.readouterr().out.splitlines() == [
        "ok   server: glibc: 2.36",
        "fail server: NumPy: 2.1; pip install 'numpy<2'",
        "warn machine: ports: [8000] taken; give others",
        "1 check failed, 1 warning, 1 passed",
    ]


@pytest.mark.parametrize(
    ("checks", "status"), [([GOOD], "ok"), ([GOOD, ODD], "warn"), ([GOOD, ODD, BAD], "fail"), ([], "ok")]
)
def test_json(checks: list[Check], status: str) -> None:
    told = json.loads(report.as_json([("machine", checks)]))
    assert told["status"] == status
    assert (told["failed"], told["warned"]) == (checks.count(BAD), checks.count(ODD))
    assert told["checks"] == [
        {
            "section": "machine",
            "check": one.name,
            "level": one.level,
            "found": one.found,
            "advice": one.advice,
            "paths": list(one.paths),
        }
        for one in checks
    ]


def test_every_flag_has_help() -> None:
    assert all(action.help for action in parser("x")._actions)
    assert options_from(parser("x").parse_args([])).ports == (8000, 8001, 8002)
