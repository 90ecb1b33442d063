"""The command's report: the table between the marks of the page, and nothing else of it touched."""

from __future__ import annotations

import pytest

from benchmarks.faults.page import PAGE, with_part
from benchmarks.pa.errors import MeasurementFailed

BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"


def test_only_what_is_between_the_marks_changes() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    once = with_part(page, "faults", "| new |\n")
    assert once == f"before\n{BEGIN}\n| new |\n{END}\nafter\n"
    assert with_part(once, "faults", "| new |\n") == once


def test_the_page_has_its_marks_and_one_without_is_told() -> None:
    for part in ("faults", "soak"):
        assert "| row |" in with_part(PAGE.read_text(), part, "| row |\n")
    with pytest.raises(MeasurementFailed, match="faults: end"):
        with_part(f"{BEGIN} alone", "faults", "")
