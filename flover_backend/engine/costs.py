"""How long an iteration takes, from the model's size: what the prefill token budget is chosen by.

A model of the time, not a measurement: the same configuration gives the same plans.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass

import torch

from flover_backend.models.batch import Model

JOIN_COST = 2.5
"""A join may make an iteration so many times as long for the rows that decode beside it."""
IDLE_SECONDS = 0.5
"""Longest iteration where no row decodes: new arrivals and cancellations wait for its end."""
MIN_IDLE_TOKENS, MAX_IDLE_TOKENS = 64, 4096
ATTENTION_TILE = 128
"""Tokens of a prompt that attend at once (kernels/gpu/prefill_attention.py): a smaller piece hardly costs less, however
much is behind it, and a long prompt would take thousands of them."""


@dataclass(frozen=True, slots=True)
class DeviceSpeed:
    """What an iteration's parts run at."""

    bandwidth: float
    """Bytes a second of weights and of keys and values, where few tokens are computed."""
    flops: float
    """Floating-point operations a second of the weights' products, where many are."""
    attention_flops: float
    """Likewise of prompts' attention to what is before them."""
    layer_seconds: float = 0.0
    """What a layer costs beside its products, whatever the number of tokens."""


def device_speed(device: torch.device, dtype: torch.dtype, num_threads: int) -> DeviceSpeed:
    """Stated constants. GPU: one NVIDIA H200. Weights of a LLaMA-13B in 6.6 ms; its iterations of 256 to 512 tokens at
    620 to 690e12 operations a second, the small kernels counted in (a sixth less from the fifth in a row on, at the
    board's power limit); a prompt's piece of 224 tokens behind 3,900 others in a LLaMA-3 8B; float32's rates are
    guesses. CPU: one thread, times their number; measured on SmolLM2-135M in fp32 on a server core of 2022."""
    if device.type == "cuda":
        flops, attention_flops = (40e12, 20e12) if dtype == torch.float32 else (650e12, 127e12)
        return DeviceSpeed(3.9e12, flops, attention_flops)
    return DeviceSpeed(13e9 * num_threads, 65e9 * num_threads, 65e9 * num_threads, 150e-6)


@dataclass(frozen=True, slots=True)
class IterationCost:
    """An iteration reads all weights once, multiplies each token by each of them, and reads the rows' keys and values.

    A prompt's tokens attend to themselves and to what of the prompt is computed already.
    """

    weight_bytes: int
    flops_per_token: int
    flops_per_pair: int
    """Of a token's attention to one token before it, in all layers."""
    kv_bytes_per_token: int
    """Keys and values of a token in all layers."""
    num_layers: int
    speed: DeviceSpeed

    @classmethod
    def of(cls, model: Model) -> IterationCost:
        """Of `model` where it lies."""
        layers, width = model.num_layers, model.head_dim
        return cls(
            weight_bytes=model.weight_bytes,
            flops_per_token=2 * model.num_parameters,
            flops_per_pair=4 * layers * model.num_heads * width,
            kv_bytes_per_token=2 * layers * model.num_kv_heads * width * model.dtype.itemsize,
            num_layers=layers,
            speed=device_speed(model.device, model.dtype, torch.get_num_threads()),
        )

    def seconds(self, num_tokens: int, num_kv_tokens: int = 0, num_pairs: float = 0.0) -> float:
        """Of an iteration of `num_tokens` tokens, decoding and prompt together.

        num_kv_tokens: what decoding rows attend to. num_pairs: of a prompt's token and one that it attends to.
        """
        speed = self.speed
        products = max(self.weight_bytes / speed.bandwidth, num_tokens * self.flops_per_token / speed.flops)
        reading = num_kv_tokens * self.kv_bytes_per_token / speed.bandwidth
        attention = num_pairs * self.flops_per_pair / speed.attention_flops
        return self.num_layers * speed.layer_seconds + products + reading + attention

    def prefill_token_budget(self, num_decode_rows: int, num_kv_tokens: int = 0, num_computed: int = 0) -> int:
        """Most prompt tokens beside `num_decode_rows` rows that attend to `num_kv_tokens` tokens; at least 1.

        num_computed: tokens of the prompt that are behind it already; for them alone it falls to no less than
        `ATTENTION_TILE`. However much the rows read, no more than fit an iteration without them.
        """
        limit = JOIN_COST * self.seconds(num_decode_rows, num_kv_tokens)

        def budget(num_computed: int) -> int:
            idle = max(MIN_IDLE_TOKENS, self._most_tokens(IDLE_SECONDS, 0, 0, num_computed))
            if num_decode_rows == 0:
                return idle
            return max(1, min(idle, self._most_tokens(limit, num_decode_rows, num_kv_tokens, num_computed)))

        return max(min(budget(0), ATTENTION_TILE), budget(num_computed)) if num_computed else budget(0)

    def _most_tokens(self, limit: float, num_decode_rows: int, num_kv_tokens: int, num_computed: int) -> int:
        """Prompt tokens of the longest iteration that takes at most `limit` seconds."""

        def seconds(num_prompt: int) -> float:
            num_pairs = num_prompt * (num_computed + num_prompt / 2)
            return self.seconds(num_decode_rows + num_prompt, num_kv_tokens, num_pairs)

        return bisect.bisect_right(range(1, MAX_IDLE_TOKENS + 1), limit, key=seconds)
