"""A joining row as kernels/row_layout.py lays it out."""

from __future__ import annotations

import struct

from flover_backend.kernels import row_layout as layout
from flover_backend.request import SamplingParams
from flover_backend.scheduler.plan import Join

_FLOATS = struct.Struct("<6f")
_INTS = struct.Struct("<6i")
_HALVES = struct.Struct("<2i")


def row_ints(join: Join, penalty_slot: int, masks: list[int]) -> list[int]:
    """[ROW_INTS] of a joining row; `masks`: the tokens that would end it before min_tokens."""
    params = join.params
    tokens = join.output_ids or join.prompt_ids
    values = [0] * layout.ROW_INTS
    values[layout.LAST_TOKEN] = tokens[-1]
    values[layout.NUM_TOKENS] = len(join.prompt_ids) + len(join.output_ids)
    values[layout.FINISH_AT] = len(join.prompt_ids) + params.max_tokens
    values[layout.IGNORE_EOS] = int(params.ignore_eos)
    values[layout.SEED_LOW], values[layout.SEED_HIGH] = _HALVES.unpack(join.seed.to_bytes(8, "little"))
    values[layout.TOP_K] = min(params.top_k, (1 << 31) - 1)
    values[layout.MASKED_UNTIL] = len(join.prompt_ids) + params.min_tokens
    values[layout.PENALTY_SLOT] = penalty_slot
    values[layout.NUM_BIASES] = len(params.logit_bias)
    values[layout.NUM_MASKS] = len(masks)
    values[layout.TEMPERATURE : layout.FREQUENCY + 1] = _float_bits(params)
    return values


def masked_tokens(params: SamplingParams, eos_token_ids: tuple[int, ...]) -> list[int]:
    """Tokens that would end the sequence, where min_tokens forbids them; MAX_MASKS hold as many as there can be."""
    if params.min_tokens <= 0:
        return []
    ends = (*params.stop_token_ids, *(() if params.ignore_eos else eos_token_ids))
    masks = list(dict.fromkeys(ends))
    assert len(masks) <= layout.MAX_MASKS
    return masks


def _float_bits(params: SamplingParams) -> tuple[int, ...]:
    """Of temperature .. frequency penalty, in the layout's order."""
    return _INTS.unpack(
        _FLOATS.pack(
            params.temperature,
            params.top_p,
            params.min_p,
            params.repetition_penalty,
            params.presence_penalty,
            params.frequency_penalty,
        )
    )
