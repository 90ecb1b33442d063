"""Which recorded program runs a plan: a stand-in for the iteration writes down how it is called."""

from __future__ import annotations

import pytest
import torch

from flover_backend.engine.gpu.programs import Programs
from flover_backend.engine.gpu.rows import DeviceRows
from flover_backend.request import SamplingParams
from flover_backend.scheduler.plan import Chunk, Plan

GREEDY, DRAWN = SamplingParams(max_tokens=9, temperature=0.0), SamplingParams(max_tokens=9)


class WrittenDown:
    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def decode(self, num_rows, greedy):
        self.calls.append(("decode", num_rows, greedy))
        return self.calls[-1]

    def body(self, inputs, samples, num_tokens, has_decodes):
        self.calls.append(("body", num_tokens, inputs.max_tokens, has_decodes))

    def head(self, samples, num_sampled, greedy):
        self.calls.append(("head", num_sampled, greedy))
        return self.calls[-1]


@pytest.fixture
def parts():
    rows = DeviceRows(20, 256, 8, 30, (2,), torch.device("cpu"))
    iteration, told = WrittenDown(), []
    programs = Programs(iteration, rows, 3000, 3)
    programs.record(told.append)
    assert iteration.calls == [] and told == sorted(told) and told[-1] == 1.0
    return programs, rows, iteration


def chunk(row: int, length: int, samples: bool = True) -> Chunk:
    return Chunk(row, 0, [1] * length, samples)


@pytest.mark.parametrize(("num_rows", "bucket"), [(1, 1), (2, 2), (3, 4), (8, 8), (9, 16), (17, 24)])
def test_decoding_rows_run_in_the_smallest_graph_that_holds_them(parts, num_rows, bucket):
    programs, rows, _ = parts
    for row in range(num_rows):
        rows.occupants.join(row, GREEDY)
    plan = Plan(0, num_rows, decode_rows=list(range(num_rows)))
    assert programs.decode(plan) == ("decode", bucket, True)
    rows.occupants.join(0, DRAWN)
    assert programs.decode(plan) == ("decode", bucket, False)
    rows.occupants.leave(0)
    assert programs.decode(plan) == ("decode", bucket, True)


def test_mixed_iterations_run_a_body_and_a_head(parts):
    programs, _, iteration = parts
    plan = Plan(0, 5, decode_rows=[0, 1, 2], idle_rows=[3], chunks=[chunk(4, 20)])
    assert programs.mixed(plan) == ("head", 4, True)
    assert iteration.calls == [("body", 32, 1024, True), ("head", 4, True)]


def test_where_nothing_is_sampled_there_is_no_head(parts):
    programs, _, iteration = parts
    assert programs.mixed(Plan(0, 1, chunks=[chunk(0, 16, samples=False)])) is None
    assert iteration.calls == [("body", 16, 1024, False)]


def test_large_iterations_run_with_exactly_their_tokens_and_no_padding(parts):
    programs, _, iteration = parts
    programs.mixed(Plan(0, 1, chunks=[chunk(0, 1024)]))
    programs.mixed(Plan(0, 3, chunks=[chunk(0, 1500), chunk(1, 1497), chunk(2, 3)]))
    assert iteration.calls == [
        ("body", 1024, 1024, False), ("head", 1, True), ("body", 3000, 3000, False), ("head", 4, True),
    ]  # fmt: skip
