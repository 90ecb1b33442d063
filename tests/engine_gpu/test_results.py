from __future__ import annotations

import torch

from flover_backend.engine.gpu.results import Results
from flover_backend.engine.sampler import Logprobs


def tokens(device: torch.device, *values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32, device=device)


def test_results_come_in_order_and_as_they_were_when_pushed(device):
    results = Results(4, 3, device)
    for step in range(0, 9, 3):
        sampled = tokens(device, 10 + step, 11 + step, 12 + step, -7)
        results.push(step, sampled, [2, 0])
        results.push_nothing(step + 1)
        results.push(step + 2, sampled[:1], range(1))
        sampled.fill_(-1)
        assert len(results) == 3
        first, second, third = results.pop(), results.pop(), results.pop()
        assert (first.step, first.token_ids, first.logprobs) == (step, [12 + step, 10 + step], {})
        assert (second.step, second.token_ids) == (step + 1, [])
        assert (third.step, third.token_ids) == (step + 2, [10 + step])
    assert len(results) == 0


def test_logprobs_come_with_their_entries(device):
    results = Results(4, 2, device)
    logprobs = Logprobs(
        [1],
        [1],
        torch.tensor([-0.5], device=device),
        torch.tensor([2], device=device),
        torch.tensor([[-0.25, -0.5]], device=device),
        torch.tensor([[9, 5]], device=device),
    )
    results.push(0, tokens(device, 4, 5), [0, 1], logprobs)
    logprobs.chosen.fill_(7.0)
    told = results.pop().logprobs
    assert list(told) == [1]
    assert (told[1].logprob, told[1].rank, told[1].top) == (-0.5, 2, [(9, -0.25)])
