"""Stop strings: found whatever the pieces, cut, and no text held back that cannot be part of one."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from flover_backend.front.stops import StopFinder

LETTERS = st.text("ab", min_size=1, max_size=6)


def cut_at_first_stop(text: str, stops: list[str]) -> str | None:
    """The plain way: the first end of a stop string, and of those that end there the longest."""
    for end in range(1, len(text) + 1):
        lengths = [len(stop) for stop in stops if text[:end].endswith(stop)]
        if lengths:
            return text[: end - max(lengths)]
    return None


def longest_open(text: str, stops: list[str]) -> int:
    """How much of the text's end could be the start of a stop string."""
    return max(
        (k for stop in stops for k in range(len(stop)) if text.endswith(stop[:k])),
        default=0,
    )


@given(st.lists(LETTERS, min_size=1, max_size=4), st.lists(st.text("ab", max_size=4), max_size=12))
@settings(deadline=None)
def test_equal_to_the_plain_way_in_any_pieces(stops: list[str], pieces: list[str]) -> None:
    finder = StopFinder(tuple(stops))
    out, seen = "", ""
    expected = cut_at_first_stop("".join(pieces), stops)
    for piece in pieces:
        free, stopped = finder.push(piece)
        out += free
        seen += piece
        if stopped:
            assert out == expected
            return
        assert out == seen[: len(seen) - longest_open(seen, stops)]
    assert expected is None
    assert out + finder.flush() == seen


@given(LETTERS, st.text("ab", max_size=8), st.text("ab", max_size=8))
@settings(deadline=None)
def test_a_string_that_ends_too_early_is_text(stop: str, early: str, late: str) -> None:
    finder = StopFinder((stop,))
    out, stopped = finder.push(early, may_stop=False)
    assert not stopped
    free, stopped = finder.push(late)
    out += free if stopped else free + finder.flush()
    ends = [end for end in range(len(early) + 1, len(early + late) + 1) if (early + late)[:end].endswith(stop)]
    # What was let go while the string did not count cannot be taken back.
    expected = (early + late)[: ends[0] - len(stop)] if ends else early + late
    assert stopped == bool(ends)
    assert out == expected


def test_nothing_is_held_back_without_reason() -> None:
    finder = StopFinder(("</end>",))
    assert finder.push("a < b") == ("a < b", False)
    assert finder.push(" and <") == (" and ", False)
    assert finder.push("/e") == ("", False)
    assert finder.push("x") == ("</ex", False)


def test_the_longest_of_those_that_end_together() -> None:
    assert StopFinder(("c", "abc")).push("xabc") == ("x", True)


def test_many_long_strings_cost_no_quadratic_work() -> None:
    finder = StopFinder(tuple("a" * 255 + letter for letter in "bcdefghijk"))
    text = "a" * 20_000
    free, stopped = finder.push(text)
    assert not stopped
    assert len(free) == len(text) - 255
