"""What was found, for a person on a terminal, for a log, and for a program. Knows no check."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from flover_backend.host.checks import Check

Sections = list[tuple[str, list[Check]]]
"""(what was looked at, its checks), in the order in which they are worth reading."""

STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def count(sections: Sections, level: str) -> int:
    """How many checks have this level."""
    return sum(check.level == level for _, checks in sections for check in checks)


def status(sections: Sections) -> str:
    """The worst level."""
    return next(level for level in ("fail", "warn", "ok") if level == "ok" or count(sections, level))


def summary(sections: Sections) -> str:
    """One line."""
    failed, warned, passed = (count(sections, level) for level in ("fail", "warn", "ok"))
    warnings = f"{warned} warning{'s' * (warned != 1)}"
    if failed:
        return f"{failed} check{'s' * (failed != 1)} failed, {warnings}, {passed} passed"
    return f"nothing failed: {passed} checks passed, {warnings}"


def as_json(sections: Sections) -> str:
    """One object, on one line."""
    checks = [
        {
            "section": section,
            "check": one.name,
            "level": one.level,
            "found": one.found,
            "advice": one.advice,
            "paths": one.paths,
        }
        for section, checks in sections
        for one in checks
    ]
    counts = {name: count(sections, level) for name, level in (("failed", "fail"), ("warned", "warn"))}
    return json.dumps({"status": status(sections), **counts, "checks": checks})


def show(sections: Sections) -> None:
    """A table a section on a terminal, otherwise a line a check."""
    if sys.stdout.isatty() and _has_rich():
        _show_tables(sections)
    else:
        for section, checks in sections:
            for one in checks:
                print(f"{one.level:4} {section}: {one.name}: {one.found}" + (f"; {one.advice}" * bool(one.advice)))
    print(summary(sections))


@contextmanager
def working(text: str) -> Iterator[None]:
    """Says so on a terminal while something takes seconds."""
    if sys.stderr.isatty() and _has_rich():
        from rich.console import Console

        with Console(stderr=True).status(text):
            yield
    else:
        yield


def _has_rich() -> bool:
    return find_spec("rich") is not None


def _show_tables(sections: Sections) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    for section, checks in sections:
        table = Table(title=Text(section), title_justify="left", title_style="bold", show_header=False, expand=True)
        table.add_column(width=4)
        table.add_column(max_width=18)
        table.add_column(ratio=1, overflow="fold")
        for one in checks:
            text = Text(one.found)
            if one.advice:
                text.append(f"\n{one.advice}", style=STYLES[one.level])
            table.add_row(Text(one.level, style=STYLES[one.level]), Text(one.name), text)
        console.print(table)
