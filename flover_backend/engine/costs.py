"""How long an iteration takes, from the model's size: what the prefill token budget is chosen by.

A model of the time, not a measurement: the same configuration gives the same plans.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from flover_backend.models.batch import Model

JOIN_COST = 2.5
"""A join may make an iteration so many times as long for the rows that decode beside it."""
IDLE_SECONDS = 0.5
"""Longest iteration where no row decodes: new arrivals and cancellations wait for its end."""
MIN_IDLE_TOKENS, MAX_IDLE_TOKENS = 64, 4096


@dataclass(frozen=True, slots=True)
class DeviceSpeed:
    """Bytes a second that weights are read at, floating-point operations a second of their products."""

    bandwidth: float
    flops: float
    layer_seconds: float = 0.0
    """What a layer costs beside its products, whatever the number of tokens."""


def device_speed(device: torch.device, dtype: torch.dtype, num_threads: int) -> DeviceSpeed:
    """Stated constants. GPU: one NVIDIA H200: read-only copies; iterations of some hundred prompt tokens behind
    thousands of others, attention included, which is far from a large product's 788e12. CPU: one thread, times their
    number; measured on SmolLM2-135M in fp32 on a server core of 2022."""
    if device.type == "cuda":
        return DeviceSpeed(4.35e12, 40e12 if dtype == torch.float32 else 450e12)
    return DeviceSpeed(13e9 * num_threads, 65e9 * num_threads, 150e-6)


@dataclass(frozen=True, slots=True)
class IterationCost:
    """An iteration reads all weights once and multiplies each token by each of them."""

    weight_bytes: int
    flops_per_token: int
    num_layers: int
    speed: DeviceSpeed

    @classmethod
    def of(cls, model: Model) -> IterationCost:
        """Of `model` where it lies."""
        speed = device_speed(model.device, model.dtype, torch.get_num_threads())
        return cls(model.weight_bytes, 2 * model.num_parameters, model.num_layers, speed)

    def seconds(self, num_tokens: int) -> float:
        """Of an iteration of `num_tokens` tokens, decoding and prompt together."""
        products = max(self.weight_bytes / self.speed.bandwidth, num_tokens * self.flops_per_token / self.speed.flops)
        return self._fixed_seconds + products

    def prefill_token_budget(self, num_decode_rows: int) -> int:
        """Most prompt tokens beside `num_decode_rows` decoding rows, at least 1."""
        if num_decode_rows == 0:
            return min(max(self._tokens_in(IDLE_SECONDS), MIN_IDLE_TOKENS), MAX_IDLE_TOKENS)
        return max(1, self._tokens_in(JOIN_COST * self.seconds(num_decode_rows)) - num_decode_rows)

    def _tokens_in(self, seconds: float) -> int:
        return int((seconds - self._fixed_seconds) * self.speed.flops / self.flops_per_token)

    @property
    def _fixed_seconds(self) -> float:
        return self.num_layers * self.speed.layer_seconds
