from __future__ import annotations

import pytest
import torch

from flover_backend.engine.gpu.graphs import GraphRecorder


def test_a_replay_does_it_again_and_returns_what_was_returned(device):
    recorder = GraphRecorder(device)
    source = torch.ones(3, device=device)
    recorded = recorder.record(lambda: source * 2)
    again = recorder.record(lambda: source.add_(1))
    for value in (5.0, 6.0):
        source.fill_(value)
        assert recorded.replay().tolist() == [2 * value] * 3
    assert again.replay() is source and source.tolist() == [7.0] * 3


def test_on_a_cpu_nothing_runs_before_its_replay():
    recorder, calls = GraphRecorder(torch.device("cpu")), []
    recorder.warm(lambda: calls.append("warm"))
    recorded = recorder.record(lambda: calls.append("recorded"))
    assert calls == [] and recorder.stream is None
    recorded.replay()
    assert calls == ["recorded"]


@pytest.mark.gpu
def test_an_error_while_recording_is_the_one_that_is_raised(device):
    recorder, calls = GraphRecorder(device), []

    def fail() -> None:
        calls.append(torch.zeros(3, device=device) + 1)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("no room")

    with pytest.raises(torch.OutOfMemoryError, match="no room"):
        recorder.record(fail)
