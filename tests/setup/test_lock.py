"""constraints.txt is a full lock: it names every package that is needed, once, at the version installed here."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).resolve().parents[2]
PIN = re.compile(r"^([a-z0-9-]+)==([0-9][^\s+]*)  # \S.*$")


def lock_lines() -> list[str]:
    text = (REPOSITORY / "constraints.txt").read_text()
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def lock() -> dict[str, str]:
    return dict(PIN.match(line).groups() for line in lock_lines())  # type: ignore[union-attr]


def project_requirements() -> list[str]:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = [line for group in project["optional-dependencies"].values() for line in group]
    return [*project["dependencies"], *extras, "setuptools"]


def needed() -> dict[str, Requirement]:
    """Every package reachable from pyproject.toml with all extras, and one requirement that asks for it."""
    found: dict[str, Requirement] = {}
    seen: list[tuple[str, str]] = []
    waiting = [(line, "") for line in project_requirements()]
    while waiting:
        line, extra = waiting.pop()
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        found[name] = requirement
        for wanted in ["", *sorted(requirement.extras)]:
            if (name, wanted) not in seen:
                seen.append((name, wanted))
                waiting += [(child, wanted) for child in importlib.metadata.distribution(name).requires or []]
    return found


def test_every_line_is_one_pin_with_a_reason() -> None:
    assert [line for line in lock_lines() if not PIN.match(line)] == []
    assert len(lock()) == len(lock_lines())


def test_the_lock_holds_exactly_what_is_needed() -> None:
    assert sorted(lock()) == sorted(needed())


@pytest.mark.parametrize("name", sorted(lock()))
def test_the_installed_version_is_the_pinned_one(name: str) -> None:
    assert importlib.metadata.version(name).split("+")[0] == lock()[name]


def test_pins_satisfy_the_declared_ranges() -> None:
    for line in project_requirements():
        requirement = Requirement(line)
        assert requirement.specifier.contains(lock()[canonicalize_name(requirement.name)]), line
