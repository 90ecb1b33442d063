"""Seeds of the n samples of a request."""

from __future__ import annotations

from flover_backend.scheduler.seeds import MASK64, sequence_seed, splitmix64


def test_splitmix64_is_the_published_generator():
    # First outputs of Vigna's splitmix64.c from state 0 and 1234567.
    assert splitmix64(0) == 0xE220A8397B1DCDAF
    assert splitmix64(1234567) == 6457827717110365317


def test_sample_0_keeps_the_seed_and_all_others_differ():
    seeds = [sequence_seed(seed, index) for seed in (0, 1, 2, MASK64) for index in range(64)]
    assert sequence_seed(42, 0) == 42
    assert len(dict.fromkeys(seeds)) == len(seeds)
    assert all(0 <= seed <= MASK64 for seed in seeds)


def test_a_sample_is_not_the_sample_of_a_neighbouring_seed():
    assert sequence_seed(1, 2) != sequence_seed(2, 1)
    assert sequence_seed(0, 1) not in (0, 1)
