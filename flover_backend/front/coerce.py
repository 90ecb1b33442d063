"""Reads single values as clients send them: numbers, booleans and lists, or the same as strings ("0.1", "false").

Each reader takes any Python value and returns the typed one, or raises `Unreadable`, whose text (often empty) adds
to what the caller says of the field. Knows no field names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from flover_backend.limits import MAX_NUMBER_CHARACTERS

Reader = Callable[[Any], Any]

_INTEGER = re.compile(r"[+-]?[0-9]{1,40}", re.ASCII)
_REAL = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)
_BOOLEANS = {"true": True, "false": False, "1": True, "0": False}
SHOWN_CHARACTERS = 60


class Unreadable(ValueError):
    """The value is of the wrong kind or out of range."""


def shown(value: object) -> str:
    """A value for an error text: its repr, shortened."""
    text = repr(value[: SHOWN_CHARACTERS + 1] if isinstance(value, str | bytes) else value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def boolean(value: Any) -> bool:
    """true, false, 1, 0, or one of these as a string."""
    if isinstance(value, bool):
        return value
    found = _BOOLEANS.get(str(value).strip().lower()) if isinstance(value, int | str) else None
    if found is None:
        raise Unreadable
    return found


def integer(value: Any) -> int:
    """An integer, a float that is one, or either as a string."""
    if isinstance(value, str):
        text = value.strip()
        value = int(text) if _INTEGER.fullmatch(text) else real(text)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value != int(value):
        raise Unreadable
    return int(value)


def real(value: Any) -> float:
    """A finite number, or one as a string."""
    if isinstance(value, str):
        text = value.strip()
        if len(text) > MAX_NUMBER_CHARACTERS or not _REAL.fullmatch(text):
            raise Unreadable
        value = float(text)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Unreadable
    try:
        number = float(value)
    except OverflowError:
        raise Unreadable from None
    if not math.isfinite(number):
        raise Unreadable
    return number


def single(value: Any) -> float:
    """A finite number rounded to float32, so that a tensor's 0.1 and JSON's 0.1 are one value."""
    with np.errstate(over="ignore"):
        return real(float(np.float32(real(value))))


def integers_between(low: int, high: int) -> Reader:
    """Integers low .. high."""

    def read(value: Any) -> int:
        number = integer(value)
        if not low <= number <= high:
            raise Unreadable
        return number

    return read


def reals_between(low: float, high: float, *, above_low: bool = False, kind: Reader = real) -> Reader:
    """Numbers low .. high; `above_low` leaves `low` out."""

    def read(value: Any) -> float:
        number: float = kind(value)
        if not low <= number <= high or (above_low and number == low):
            raise Unreadable
        return number

    return read


def tuples_of(item: Reader, most: int) -> Reader:
    """Lists of at most `most` items, as tuples."""

    def read(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise Unreadable
        if len(value) > most:
            raise Unreadable(f"{len(value)} entries")
        return tuple(item(entry) for entry in value)

    return read


def text_of_bytes(least: int, most: int) -> Reader:
    """Strings whose UTF-8 form has `least` to `most` bytes."""

    def read(value: Any) -> str:
        if not isinstance(value, str):
            raise Unreadable
        try:
            size = len(value.encode())
        except UnicodeEncodeError:  # a lone surrogate, which JSON's \ud800 can express
            raise Unreadable("not valid Unicode") from None
        if not least <= size <= most:
            raise Unreadable(f"{size} bytes")
        return value

    return read
