"""Rows of docs/reliability.md: medians, bars in both directions, what is lost is never held."""

from __future__ import annotations

from benchmarks.faults.rows import Row, lost_in_words, markdown


def row(values: list[float], bar: float | None = None, is_floor: bool = False, lost: str = "nothing") -> Row:
    return Row(
        fault="engine killed", injected="3 times", lost=lost, figure="noticed after", values=values, unit="s",
        bar=bar, is_floor=is_floor,
    )  # fmt: skip


def test_the_median_is_held_against_the_bar() -> None:
    assert row([1.0, 9.0, 2.0], bar=2.0).verdict == "held"
    assert row([1.0, 9.0, 2.1], bar=2.0).verdict == "MISSED"
    assert row([0.9, 1.0], bar=0.95, is_floor=True).verdict == "held"
    assert row([0.9, 0.98], bar=0.95, is_floor=True).verdict == "MISSED"
    assert row([float("nan")], bar=2.0).verdict == "MISSED"


def test_a_lost_request_is_a_miss_whatever_the_figure_says() -> None:
    assert lost_in_words(0, 7) == "nothing"
    assert row([1.0], bar=2.0, lost=lost_in_words(1, 7)).verdict == "MISSED"
    assert row([1.0], lost=lost_in_words(1, 7)).verdict == "MISSED"
    assert row([1.0]).verdict == "–"


def test_the_table_says_where_the_median_comes_from() -> None:
    text = markdown([row([1.0, 3.0, 2.0], bar=5.0), row([123.4], bar=0.95, is_floor=True)])
    assert "| 2 s (1 to 3) | ≤ 5 s | held |" in text
    assert "| 123 s | ≥ 0.95 s | held |" in text
