"""docs/deploy.md and the README name flags, checks and defaults that there are."""

from __future__ import annotations

import inspect
import re
import shlex

import pytest
from live_server import ROOT

from flover_backend.host import checks as host_checks
from flover_backend.host.checks import OLDEST_COMPUTE, OLDEST_GLIBC, SHM_PER_FRONT
from flover_install import checks
from flover_install.options import options_from, parser

PAGES = [ROOT / "docs" / "deploy.md", ROOT / "README.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_the_script_parses(page: object) -> None:
    lines = re.findall(r"python3 deploy/install\.py ([^#\n`]*)", page.read_text())  # type: ignore[attr-defined]
    assert lines
    for flags in [shlex.split(line) for line in lines if "--help" not in line]:
        options_from(parser().parse_args(flags))


def test_every_flag_that_is_named_is_one() -> None:
    known = {flag for action in parser()._actions for flag in action.option_strings}
    others = {"--model-control-mode", "--load-model", "--disable-auto-complete-config", "--exit-timeout-secs"}
    others |= {"--shm-size", "--gpus", "--rm", "--build-arg", "--backend-config", "--target"}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", (ROOT / "docs" / "deploy.md").read_text()))
    assert named - known - others == set()


def test_every_check_is_explained_with_its_bounds() -> None:
    text = (ROOT / "docs" / "deploy.md").read_text()
    source = inspect.getsource(checks) + inspect.getsource(host_checks)
    names = set(re.findall(r'(?:Check\(\s*(?:level|"\w+"), |name = (?:\S+, )?)"([^"]+)"', source))
    assert len(names) >= 15
    assert [name for name in names - {"engine's Python"} if f"`{name}`" not in text] == []
    for part in ("`glibc` | 2.28 ", "compute capability 8.0 ", "2 MiB of `/dev/shm` a front"):
        assert part in text
    assert (OLDEST_GLIBC, OLDEST_COMPUTE, SHM_PER_FRONT) == ((2, 28), (8, 0), 2 << 20)
