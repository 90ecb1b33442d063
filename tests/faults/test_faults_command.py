"""The command's report: the table between the marks of the page, and nothing else of it touched."""

from __future__ import annotations

import pytest

from benchmarks.faults.__main__ import BEGIN, DOCS, END, with_table
from benchmarks.pa.errors import MeasurementFailed


def test_only_what_is_between_the_marks_changes() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    once = with_table(page, "| new |\n")
    assert once == f"before\n{BEGIN}\n| new |\n{END}\nafter\n"
    assert with_table(once, "| new |\n") == once


def test_the_page_has_its_marks_and_one_without_is_told() -> None:
    assert "| row |" in with_table(DOCS.read_text(), "| row |\n")
    with pytest.raises(MeasurementFailed, match="faults: end"):
        with_table(f"{BEGIN} alone", "")
