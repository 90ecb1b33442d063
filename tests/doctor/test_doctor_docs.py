"""docs/doctor.md and docs/logs.md name the checks, flags and fields that there are."""

from __future__ import annotations

import inspect
import re
from types import ModuleType

import pytest
from live_server import ROOT

from flover_backend.doctor import command, engines, live, machine, model_probe, repository
from flover_backend.doctor.options import parser
from flover_backend.front.request_log import REFUSAL_LINES, REFUSED_MESSAGE, REQUEST_ID_LENGTH, Ending, _fields
from flover_backend.host import checks
from flover_backend.host.checks import ENGINE_PACKAGES

DOCTOR = (ROOT / "docs" / "doctor.md").read_text()
LOGS = (ROOT / "docs" / "logs.md").read_text()
DEPLOY = (ROOT / "docs" / "deploy.md").read_text()
NAMED = re.compile(r'(?:Check\(\s*(?:level|"\w+"), |name = (?:\S+, )?)"([^"]+)"')


@pytest.mark.parametrize("module", [command, engines, live, machine, model_probe, repository, checks])
def test_every_check_is_explained(module: ModuleType) -> None:
    names = set(NAMED.findall(inspect.getsource(module)))
    assert names
    explained = DOCTOR + (DEPLOY if module is checks else "")
    assert [name for name in names if f"`{name}`" not in explained] == []


def test_every_flag_is_explained_and_every_named_one_is_there() -> None:
    flags = {flag for action in parser("x")._actions for flag in action.option_strings} - {"-h", "--help"}
    assert [flag for flag in flags if f"`{flag}" not in DOCTOR] == []
    others = {"--ulimit", "--model-control-mode", "--load-model"}
    assert set(re.findall(r"--[a-z][a-z-]+", DOCTOR)) - flags - others == set()


def test_the_releases_of_the_engines_packages() -> None:
    oldest = ", ".join(".".join(map(str, release)) for release in ENGINE_PACKAGES.values())
    assert f"as that interpreter imports them: {oldest};" in DOCTOR


def test_every_field_of_a_requests_line_is_explained() -> None:
    ending = Ending(1, "a", "length", "OK", True, True, 1, 1, 1, 0.0, 0.1, 0.2, 7, 0.1)
    assert [name for name in _fields(ending) if f"`{name}`" not in LOGS] == []
    assert f"The first {REFUSAL_LINES} refusals of a second" in LOGS
    assert f"the first {REQUEST_ID_LENGTH} characters" in LOGS
    assert f"`{REFUSED_MESSAGE}" in LOGS
