"""The number of compute threads is set for a body, and afterwards as it was."""

from __future__ import annotations

import pytest
import torch

from flover_backend.kernels.threads import compute_threads


def test_sets_and_restores() -> None:
    with compute_threads(3):
        with compute_threads(None):
            assert torch.get_num_threads() == 3
        with pytest.raises(ZeroDivisionError), compute_threads(2):
            assert torch.get_num_threads() == 2
            raise ZeroDivisionError
        assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == 1
