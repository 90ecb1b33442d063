"""Small models compute fastest on one thread; the rest of the session gets its threads back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from flover_backend.kernels.threads import compute_threads


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    with compute_threads(1):
        yield
