from __future__ import annotations

import random

import pytest

from flover_backend.engine.gpu.occupants import NO_SLOT, Occupants, is_choosy, wants_logprobs
from flover_backend.request import SamplingParams

GREEDY = SamplingParams(max_tokens=3, temperature=0.0)
KINDS = [
    GREEDY,
    SamplingParams(max_tokens=3, temperature=0.0, logprobs=0),
    SamplingParams(max_tokens=3, temperature=0.0, presence_penalty=0.5),
    SamplingParams(max_tokens=3, cumulative_logprob=True, repetition_penalty=1.1),
]


@pytest.mark.parametrize(
    ("keys", "choosy", "logprobs"),
    [
        ({}, False, False),
        ({"top_k": 5, "top_p": 0.5, "seed": 3, "stop_token_ids": (4,), "ignore_eos": True}, False, False),
        ({"temperature": 0.1}, True, False),
        ({"min_tokens": 1}, True, False),
        ({"logit_bias": {3: 1.0}}, True, False),
        ({"frequency_penalty": -0.1}, True, False),
        ({"logprobs": 0}, False, True),
        ({"cumulative_logprob": True}, False, True),
    ],
)
def test_what_a_row_asks_of_sampling(keys, choosy, logprobs):
    params = SamplingParams(**({"max_tokens": 3, "temperature": 0.0} | keys))
    assert (is_choosy(params), wants_logprobs(params)) == (choosy, logprobs)


def test_counts_and_slots_follow_random_comings_and_goings():
    for seed in range(20):
        source, max_rows = random.Random(seed), 6
        occupants, expected = Occupants(max_rows), [None] * max_rows
        for _ in range(60):
            row, other = source.sample(range(max_rows), 2)
            match source.choice(["join", "join", "leave", "move"]):
                case "join":
                    expected[row] = source.choice(KINDS)
                    occupants.join(row, expected[row])
                case "leave":
                    expected[row] = None
                    occupants.leave(row)
                case "move" if expected[row] is not None:
                    slot = occupants.penalty_slots[row]
                    expected[other], expected[row] = expected[row], None
                    occupants.move([(row, other)])
                    assert occupants.penalty_slots[other] == slot, "the counts do not move"
            live = [params for params in expected if params is not None]
            assert occupants.params == expected
            assert occupants.num_choosy == sum(map(is_choosy, live))
            assert occupants.num_logprobs == sum(map(wants_logprobs, live))
            slots = [slot for slot in occupants.penalty_slots if slot != NO_SLOT]
            assert len(set(slots)) == len(slots) == sum(params in KINDS[2:] for params in live)
            for params, slot in zip(occupants.params, occupants.penalty_slots, strict=True):
                assert (slot != NO_SLOT) == (params in KINDS[2:])


def test_every_row_may_use_penalties_again_and_again():
    occupants = Occupants(3)
    for _ in range(4):
        for row in range(3):
            occupants.join(row, KINDS[2])
        assert sorted(occupants.penalty_slots) == [0, 1, 2]
