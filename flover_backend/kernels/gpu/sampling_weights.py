"""What both of the sampler's kernels read: a row's processed logits, their weights, and the row's random number.

The arithmetic is `kernels/sampling.py`'s. Sums that must be exact to far below a token's weight are taken over GROUP
neighbours in float32, whose rounding errors are small and of either sign, and in float64 beyond them.
"""

from __future__ import annotations

import triton
import triton.language as tl

GROUP = tl.constexpr(8)

_LARGEST = tl.constexpr(3.4028234663852886e38)
_LOG2_E = tl.constexpr(1.4426950216293335)
_LOG2_E_REST = tl.constexpr(1.9259629911266175e-08)
"""log2(e) in two float32 numbers"""
_LN_2 = tl.constexpr(0.6931471805599453)
_LEAST_EXPONENT = tl.constexpr(-105.0)
"""exp of it is 0 in float32"""


@triton.jit
def finite(x):
    """NaN as the least logit, infinities as the outermost: whatever the model gave, all that follows is finite."""
    x = tl.where(x == x, x, -_LARGEST)  # noqa: PLR0124
    return tl.minimum(tl.maximum(x, -_LARGEST), _LARGEST)


@triton.jit
def load_logits(logits, processed, is_processed, index, vocab_size):
    """float32 logits of a row at `index`, -inf beyond the vocabulary; from `processed` where the row changed them."""
    inside = index < vocab_size
    raw = tl.load(logits + index, mask=inside & (is_processed == 0), other=0.0).to(tl.float32)
    changed = tl.load(processed + index, mask=inside & (is_processed != 0), other=0.0)
    return tl.where(inside, finite(tl.where(is_processed != 0, changed, raw)), float("-inf"))


@triton.jit
def weights(x, top, temperature):
    """exp((x - top) / temperature) in float32, within two units in the last place: 1 for the top, 0 for -inf.

    The division is rounded correctly (Markstein, "Computation of elementary functions on the IBM RISC System/6000
    processor", 1990), and the rounding of the exponent's product with log2(e) is made good, so that weights do not
    drift away from the reference's with the distance to the top.
    """
    inverse = 1.0 / temperature
    distance = tl.maximum(x - top, _LEAST_EXPONENT * temperature)
    exponent = distance * inverse
    exponent = tl.fma(tl.fma(-exponent, temperature, distance), inverse, exponent)
    binary = exponent * _LOG2_E
    rest = tl.fma(exponent, _LOG2_E_REST, tl.fma(exponent, _LOG2_E, -binary))
    power = tl.exp2(binary)
    return tl.fma(power, rest * _LN_2, power)


@triton.jit
def clamped_temperature(temperature):
    """Never so small that its inverse is infinite."""
    return tl.maximum(temperature, 1e-30)


@triton.jit
def _splitmix64(x):
    x += 0x9E3779B97F4A7C15
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB
    return x ^ (x >> 31)


@triton.jit
def uniform(seed_low, seed_high, position):
    """`kernels.sampling.uniform` of a seed in two int32 halves and an int32 position: float64 in [0, 1)."""
    seed = (seed_high.to(tl.uint64) << 32) | (seed_low.to(tl.uint64) & 0xFFFFFFFF)
    bits = _splitmix64(_splitmix64(seed) + position.to(tl.uint64) * 0x9E3779B97F4A7C15)
    return (bits >> 11).to(tl.float64) * 1.1102230246251565e-16
