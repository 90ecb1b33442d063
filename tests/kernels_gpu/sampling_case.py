"""Rows of any sampling parameters as the device holds them, and what the CPU's sampler chooses for them."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch

from flover_backend.kernels import row_layout as layout
from flover_backend.kernels import sampling as reference
from flover_backend.kernels.gpu import sampling as subject
from flover_backend.kernels.gpu.row_changes import DEAD_ROW
from flover_backend.kernels.margins import decision_margin
from flover_backend.request import SamplingParams

NEAR_TIE = 1e-4


@dataclass(frozen=True)
class Row:
    """One live row: its parameters, and the tokens it knows."""

    params: SamplingParams
    prompt: list[int]
    output: list[int]

    @property
    def penalizes(self) -> bool:
        p = self.params
        return p.repetition_penalty != 1 or p.presence_penalty != 0 or p.frequency_penalty != 0


def random_params(source: random.Random, vocab_size: int, kind: str) -> SamplingParams:
    """`kind`: greedy, temperature, top_k, top_p, min_p, penalties, bias, min_tokens, or mix (any of them together)."""
    kinds = ["temperature", "top_k", "top_p", "min_p", "penalties", "bias", "min_tokens"]
    chosen = source.sample(kinds, source.randrange(len(kinds) + 1)) if kind == "mix" else [kind]
    fields: dict[str, object] = {"temperature": 0.0, "seed": source.getrandbits(64), "max_tokens": 1000}
    if {"temperature", "top_k", "top_p", "min_p"} & set(chosen):
        fields["temperature"] = source.choice([0.05, 0.7, 1.0, 1.3, 4.0])
    if "top_k" in chosen:
        fields["top_k"] = source.choice([1, 2, 50, vocab_size // 2, vocab_size])
    if "top_p" in chosen:
        fields["top_p"] = source.choice([0.01, 0.5, 0.9, 0.999])
    if "min_p" in chosen:
        fields["min_p"] = source.choice([0.001, 0.1, 1.0])
    if "penalties" in chosen:
        fields |= {
            "repetition_penalty": source.choice([0.7, 1.0, 1.3]),
            "presence_penalty": source.choice([0.0, 1.5, -1.0]),
            "frequency_penalty": source.choice([0.5, -0.3]),
        }
    if "bias" in chosen:
        count = min(source.choice([1, 3, 300, layout.MAX_BIASES]), vocab_size)
        fields["logit_bias"] = {t: source.uniform(-4, 4) for t in source.sample(range(vocab_size), count)}
    if "min_tokens" in chosen:
        count = min(source.choice([1, 64]), vocab_size)
        fields |= {
            "min_tokens": source.choice([1, 500]),
            "stop_token_ids": tuple(source.sample(range(vocab_size), count)),
        }
    return SamplingParams(**fields)  # type: ignore[arg-type]


def random_row(source: random.Random, vocab_size: int, kind: str) -> Row:
    def tokens(limit: int) -> list[int]:
        return [source.randrange(vocab_size) for _ in range(source.randrange(1, limit))]

    return Row(random_params(source, vocab_size, kind), tokens(40), tokens(20) * source.choice([1, 2]))


class DeviceRows:
    """Tables of `rows` on a device, scattered over a state of twice as many, the rest of it poison; last a dead row."""

    def __init__(self, rows: list[Row], vocab_size: int, device: torch.device, seed: int = 0) -> None:
        self.rows, self.vocab_size = rows, vocab_size
        total = 2 * len(rows) + 1
        poison = np.random.default_rng(seed)
        state = poison.integers(-(1 << 31), 1 << 31, (total, layout.ROW_INTS), np.int32)
        bias_ids = poison.integers(0, vocab_size, (total, layout.MAX_BIASES), np.int32)
        bias_values = poison.standard_normal((total, layout.MAX_BIASES)).astype(np.float32)
        mask_ids = poison.integers(0, vocab_size, (total, layout.MAX_MASKS), np.int32)
        counts = poison.integers(-(1 << 31), 1 << 31, (len(rows) + 1, vocab_size), np.int32)
        self.places = poison.permutation(total - 1)[: len(rows)].astype(np.int32)
        for slot, (row, place) in enumerate(zip(rows, self.places, strict=True)):
            state[place] = row_ints(row, slot)
            biases = row.params.logit_bias
            bias_ids[place, : len(biases)] = list(biases)
            bias_values[place, : len(biases)] = list(biases.values())
            masks = row.params.stop_token_ids
            mask_ids[place, : len(masks)] = masks
            counts[slot] = np.bincount(row.output, minlength=vocab_size)
            counts[slot, row.prompt] |= np.int32(layout.SEEN_IN_PROMPT)
        state[-1] = DEAD_ROW
        self.tables = [torch.from_numpy(t).to(device) for t in (state, bias_ids, bias_values, mask_ids, counts)]
        self.index = torch.from_numpy(self.places).to(device)
        self.scratch = subject.SamplingScratch.allocate(len(rows) + 4, vocab_size, device)

    def sample(self, logits: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        """[S] int32 tokens on the device."""
        index = self.index if rows is None else rows
        out = torch.full((logits.shape[0],), -7, dtype=torch.int32, device=logits.device)
        subject.sample(logits, index, *self.tables, self.scratch, out)
        return out


def row_ints(row: Row, slot: int) -> list[int]:
    """The row's fields; its counts are at `slot`."""
    p = row.params
    ints = list(DEAD_ROW)
    seed = p.seed.to_bytes(8, "little")
    floats = (p.temperature, p.top_p, p.min_p, p.repetition_penalty, p.presence_penalty, p.frequency_penalty)
    for place, value in {
        layout.NUM_TOKENS: len(row.prompt) + len(row.output),
        layout.FINISH_AT: len(row.prompt) + p.max_tokens,
        layout.SEED_LOW: int.from_bytes(seed[:4], "little", signed=True),
        layout.SEED_HIGH: int.from_bytes(seed[4:], "little", signed=True),
        layout.TOP_K: p.top_k,
        layout.MASKED_UNTIL: len(row.prompt) + p.min_tokens,
        layout.PENALTY_SLOT: slot if row.penalizes else -1,
        layout.NUM_BIASES: len(p.logit_bias),
        layout.NUM_MASKS: len(p.stop_token_ids),
    }.items():
        ints[place] = value
    ints[layout.TEMPERATURE : layout.FREQUENCY + 1] = np.array(floats, np.float32).view(np.int32).tolist()
    return ints


def reference_logits(row: Row, logits: torch.Tensor) -> torch.Tensor:
    """[V] of any dtype -> [1, V] float32 on the CPU, after penalties, biases and masks."""
    processed = logits.cpu().float().unsqueeze(0).clone()
    p = row.params
    if row.penalizes:
        counts = torch.bincount(torch.tensor(row.output), minlength=processed.shape[1]).int()
        seen = counts > 0
        seen[row.prompt] = True
        factors = torch.tensor([[p.repetition_penalty], [p.presence_penalty], [p.frequency_penalty]])
        reference.penalize_(processed, torch.tensor([0]), seen.unsqueeze(0), counts.unsqueeze(0), factors)
    if p.logit_bias:
        processed[0, list(p.logit_bias)] += torch.tensor(list(p.logit_bias.values()), dtype=torch.float32)
    if len(row.output) < p.min_tokens:
        processed[0, list(p.stop_token_ids)] = reference.MASKED_LOGIT
    return processed


def reference_token(row: Row, logits: torch.Tensor) -> int:
    """The CPU sampler's token for [V] logits."""
    processed = reference_logits(row, logits)
    p = row.params
    if p.temperature == 0:
        return int(processed.argmax())
    weights = reference.temper_(processed, torch.tensor([p.temperature]))
    reference.filter_(weights, torch.tensor([p.top_k]), torch.tensor([p.top_p]), torch.tensor([p.min_p]))
    return int(reference.inverse_cdf(weights, _point(row)))


def _point(row: Row) -> torch.Tensor:
    seed = row.params.seed
    signed = seed - (1 << 64) if seed >= 1 << 63 else seed
    return reference.uniform(torch.tensor([signed]), torch.tensor([len(row.prompt) + len(row.output)]))


@dataclass(frozen=True)
class Difference:
    """A row whose token is not the reference's; `margin`: how near the reference's decision was to another."""

    params: SamplingParams
    expected: int
    token: int
    margin: float


def differences(rows: list[Row], logits: torch.Tensor, tokens: list[int]) -> list[Difference]:
    """Row i of `logits` is sampled as rows[i] asks."""
    found = []
    for row, row_logits, token in zip(rows, logits, tokens, strict=True):
        expected = reference_token(row, row_logits)
        if expected != token:
            margin = decision_margin(reference_logits(row, row_logits)[0], row.params, float(_point(row)))
            found.append(Difference(row.params, expected, token, margin))
    return found
