"""docs/reliability.md: the parts of it that a command writes stand between marks of their own."""

from __future__ import annotations

from pathlib import Path

from benchmarks.pa.errors import MeasurementFailed

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"


def write_page(part: str, content: str) -> None:
    """Put what was measured into the page. Raises `MeasurementFailed` where the part's marks are not there."""
    PAGE.write_text(with_part(PAGE.read_text(), part, content))


def with_part(text: str, part: str, content: str) -> str:
    """The page with other content between the marks of `part`. Raises `MeasurementFailed` where they are not."""
    begin, end = f"<!-- {part}: begin -->", f"<!-- {part}: end -->"
    head, found_begin, rest = text.partition(begin)
    _, found_end, tail = rest.partition(end)
    if not (found_begin and found_end):
        raise MeasurementFailed(f"the page has no {begin} ... {end}; put the marks where {part} is to stand")
    return f"{head}{begin}\n{content}{end}{tail}"
