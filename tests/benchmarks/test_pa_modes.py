"""Flags to perf_analyzer's arguments and inputs, and the words of what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.pa import modes
from benchmarks.pa.errors import MeasurementFailed
from benchmarks.pa.inputs import Lengths, Prompts, make_entries, make_intervals, parse_lengths
from benchmarks.pa.loads import LoadFlags, make_loads
from benchmarks.pa.modes import Extent, Mode
from benchmarks.pa.session import Requests

FLAGS = LoadFlags("8", "8", None, "4:32:4", 10, Extent(64), 1)


def test_every_mode(tmp_path: Path) -> None:
    loads = make_loads(Mode.ALL, FLAGS, tmp_path)
    assert [load.mode for load in loads] == [mode for mode in Mode if mode is not Mode.ALL]
    given = {load.mode: " ".join(load.arguments) for load in loads}
    assert given[Mode.CONCURRENCY] == "--concurrency-range 8 --request-count 64"
    assert given[Mode.RATE] == "--request-rate-range 8 --request-distribution constant --request-count 64"
    assert given[Mode.POISSON] == "--request-rate-range 8 --request-distribution poisson --request-count 64"
    assert given[Mode.INTERVALS] == f"--request-intervals {tmp_path}/intervals-8.txt --request-count 64"
    assert given[Mode.PERIODIC] == "--periodic-concurrency-range 4:32:4 --request-period 10"
    assert loads[-1].num_requests == 32
    assert len((tmp_path / "intervals-8.txt").read_text().splitlines()) == 64


def test_several_numbers_are_several_runs(tmp_path: Path) -> None:
    loads = make_loads(Mode.CONCURRENCY, replace(FLAGS, concurrency="1,8,64"), tmp_path)
    assert [load.label for load in loads] == ["concurrency-1", "concurrency-8", "concurrency-64"]
    assert loads[-1].words == "64 in flight, one burst"


def test_by_time_there_are_three_windows_that_are_always_stable(tmp_path: Path) -> None:
    (load,) = make_loads(Mode.POISSON, replace(FLAGS, extent=Extent(64, 6.0)), tmp_path)
    assert load.arguments[4:] == (
        *("--measurement-interval", "2000", "--max-trials", "3"),
        *("--stability-percentage", "999"),
    )
    assert load.num_requests is None


@pytest.mark.parametrize(
    ("mode", "changes", "says"),
    [
        (Mode.CONCURRENCY, {"concurrency": "0"}, "--concurrency is 0"),
        (Mode.CONCURRENCY, {"concurrency": "two"}, "--concurrency is 'two'"),
        (Mode.CONCURRENCY, {"concurrency": "1.5"}, "--concurrency is 1.5"),
        (Mode.CONCURRENCY, {"concurrency": "8,8"}, "each number may come once"),
        (Mode.CONCURRENCY, {"concurrency": "65"}, "--requests is 64, less than --concurrency 65"),
        (Mode.RATE, {"rate": "0"}, "--rate is 0"),
        (Mode.INTERVALS, {"rate": "-1"}, "--rate is -1"),
        (Mode.INTERVALS, {"intervals": Path("/nowhere.txt")}, "--intervals is /nowhere.txt"),
        (Mode.PERIODIC, {"periodic": "4:32"}, "START:END:STEP"),
        (Mode.PERIODIC, {"periodic": "4:30:4"}, "END must be START plus some STEPs, such as 4:20:4"),
        (Mode.PERIODIC, {"request_period": 0}, "--request-period is 0"),
        (Mode.RATE, {"extent": Extent(0)}, "--requests is 0"),
        (Mode.RATE, {"extent": Extent(1, 0.0)}, "--seconds is 0.0"),
    ],
)
def test_refused(tmp_path: Path, mode: Mode, changes: dict[str, object], says: str) -> None:
    with pytest.raises(MeasurementFailed, match=says):
        make_loads(mode, replace(FLAGS, **changes), tmp_path)  # type: ignore[arg-type]


def test_a_file_of_gaps_must_hold_numbers(tmp_path: Path) -> None:
    file = tmp_path / "gaps.txt"
    file.write_text("100\nsoon\n")
    with pytest.raises(MeasurementFailed, match="whole number of microseconds"):
        modes.intervals(file, "", "", Extent())


def test_answers_shorter_than_the_period_are_refused() -> None:
    asked = Requests(Prompts(Lengths(8, 8)), Lengths(4, 64), 0.0, 1)
    with pytest.raises(MeasurementFailed, match="--output-tokens may be 4, less than --request-period 10"):
        asked.entries(modes.periodic("2:4:2", 10))


def test_entries_follow_from_the_seed() -> None:
    prompts = Prompts(Lengths(3, 9), 50)
    entries = make_entries(200, prompts, Lengths(5, 6), 1, 0.0)
    assert entries == make_entries(200, prompts, Lengths(5, 6), 1, 0.0)
    assert entries != make_entries(200, prompts, Lengths(5, 6), 2, 0.0)
    assert {entry["input_ids"]["shape"][0] for entry in entries} == set(range(3, 10))
    assert {entry["max_tokens"][0] for entry in entries} == {5, 6}
    assert all(3 <= token < 50 for entry in entries for token in entry["input_ids"]["content"])
    assert all(len(entry["input_ids"]["content"]) == entry["input_ids"]["shape"][0] for entry in entries)


def test_texts_are_used_in_turn() -> None:
    entries = make_entries(3, Prompts(Lengths(1, 1), texts=("one", "two")), Lengths(5, 5), 1, 0.0)
    assert [entry["text_input"] for entry in entries] == [["one"], ["two"], ["one"]]
    assert not any("input_ids" in entry for entry in entries)


@pytest.mark.parametrize("text", ["0", "8:4", "x", "", "1:2:3", "-1", "1:x"])
def test_lengths_that_are_refused(text: str) -> None:
    with pytest.raises(MeasurementFailed, match=r"--prompt-tokens is .* allowed is"):
        parse_lengths(text, "--prompt-tokens")


def test_gaps_have_the_rate_in_the_mean() -> None:
    gaps = make_intervals(4000, 20.0, seed=3)
    assert 0.9 * 50_000 < sum(gaps) / len(gaps) < 1.1 * 50_000
    assert gaps == make_intervals(4000, 20.0, seed=3)
    assert len(set(gaps)) > 3000
