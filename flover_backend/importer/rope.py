"""llama3's rope scaling as GGUF stores it: one divisor for each frequency. Knows the formula and nothing else."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

LOW_FREQ_FACTOR, HIGH_FREQ_FACTOR, ORIGINAL_LENGTH = 1.0, 4.0, 8192
"""What every published llama3 checkpoint has; a GGUF keeps only the factors that come of it."""


def llama3_factors(theta: float, head_dim: int, factor: float) -> npt.NDArray[np.float64]:
    """[head_dim / 2] divisors of the rotary frequencies, by the formula of Llama 3.1's reference code."""
    wavelengths = 2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    smooth = (ORIGINAL_LENGTH / wavelengths - LOW_FREQ_FACTOR) / (HIGH_FREQ_FACTOR - LOW_FREQ_FACTOR)
    blended: npt.NDArray[np.float64] = 1 / ((1 - np.clip(smooth, 0, 1)) / factor + np.clip(smooth, 0, 1))
    return blended


def llama3_scaling(factors: npt.NDArray[np.float32], theta: float, head_dim: int) -> dict[str, Any] | None:
    """`rope_scaling` of config.json that gives these factors; None where they are not llama3's."""
    factor = float(factors.max(initial=1.0))
    expected = llama3_factors(theta, head_dim, factor)
    if factors.shape != expected.shape or not np.allclose(factors, expected, rtol=1e-5):
        return None
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": LOW_FREQ_FACTOR,
        "high_freq_factor": HIGH_FREQ_FACTOR,
        "original_max_position_embeddings": ORIGINAL_LENGTH,
    }
