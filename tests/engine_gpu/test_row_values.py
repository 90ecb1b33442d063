from __future__ import annotations

import struct

from flover_backend.engine.gpu.row_values import masked_tokens, row_ints
from flover_backend.front.parameters import MAX_STOP_TOKENS
from flover_backend.kernels import row_layout as layout
from flover_backend.models.config_values import MAX_EOS_TOKEN_IDS
from flover_backend.request import SamplingParams
from flover_backend.scheduler.plan import Join


def test_a_row_says_all_of_its_join():
    params = SamplingParams(
        max_tokens=9, temperature=0.7, top_k=1 << 40, top_p=0.9, min_p=0.1, repetition_penalty=1.1,
        presence_penalty=-0.5, frequency_penalty=0.25, min_tokens=4, ignore_eos=True, logit_bias={3: 1.0, 4: -2.0},
    )  # fmt: skip
    seed = 0xFEDCBA98_12345678
    values = row_ints(Join(2, [5, 6, 7], [8, 9], params, seed), 6, [1, 2, 3])
    assert len(values) == layout.ROW_INTS and all(-(1 << 31) <= value < 1 << 31 for value in values)
    expected = {
        layout.LAST_TOKEN: 9, layout.NUM_TOKENS: 5, layout.FINISH_AT: 12, layout.IGNORE_EOS: 1, layout.FINISHED: 0,
        layout.TOP_K: (1 << 31) - 1, layout.MASKED_UNTIL: 7, layout.PENALTY_SLOT: 6, layout.NUM_BIASES: 2,
        layout.NUM_MASKS: 3,
    }  # fmt: skip
    assert {place: values[place] for place in expected} == expected
    low, high = values[layout.SEED_LOW] % 2**32, values[layout.SEED_HIGH] % 2**32
    assert low | high << 32 == seed
    floats = struct.unpack("<6f", struct.pack("<6i", *values[layout.TEMPERATURE : layout.FREQUENCY + 1]))
    assert floats == struct.unpack("<6f", struct.pack("<6f", 0.7, 0.9, 0.1, 1.1, -0.5, 0.25))
    assert not any(values[layout.FREQUENCY + 1 :])


def test_a_prompt_s_last_token_is_fed_in_where_there_is_no_output():
    values = row_ints(Join(0, [5, 6], [], SamplingParams(max_tokens=1), 0), -1, [])
    assert (values[layout.LAST_TOKEN], values[layout.NUM_TOKENS], values[layout.FINISH_AT]) == (6, 2, 3)


def test_masked_tokens_are_those_that_end_a_sequence():
    def masks(**keys: object) -> list[int]:
        return masked_tokens(SamplingParams(max_tokens=9, **keys), (2, 5))

    assert masks(stop_token_ids=(7,)) == []
    assert masks(min_tokens=1, stop_token_ids=(7, 2, 7)) == [7, 2, 5]
    assert masks(min_tokens=1, stop_token_ids=(7, 2), ignore_eos=True) == [7, 2]
    assert masks(min_tokens=1, ignore_eos=True) == []
    assert len(masks(min_tokens=1, stop_token_ids=tuple(range(10, 10 + 64)))) == 66


def test_the_most_stop_tokens_beside_the_most_eos_ids_are_all_masked():
    stops, ends = tuple(range(MAX_STOP_TOKENS)), tuple(range(100, 100 + MAX_EOS_TOKEN_IDS))
    masks = masked_tokens(SamplingParams(max_tokens=9, min_tokens=1, stop_token_ids=stops), ends)
    assert masks == [*stops, *ends] and len(masks) <= layout.MAX_MASKS
