"""Grids of test cases that are long under the interpreter: half of one is for every run, the rest is `slow`."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any

import pytest


def checkered(*axes: Iterable[Any]) -> list[Any]:
    """All combinations; every other one is `slow`, as on a chessboard: each value is left, and each pair of three axes.

    An axis' entry that is a tuple stands for several parameters.
    """
    cells = product(*(enumerate(axis) for axis in axes))
    return [
        pytest.param(
            *(part for _, entry in cell for part in (entry if isinstance(entry, tuple) else (entry,))),
            marks=pytest.mark.slow if sum(index for index, _ in cell) % 2 else (),
        )
        for cell in cells
    ]
