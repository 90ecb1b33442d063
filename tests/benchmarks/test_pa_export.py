"""Reading exports: tokens of a response, the empty last response, broken files, big files."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import pytest
from pa_exports import request, tokens, write

from benchmarks.pa.errors import BrokenExport, MeasurementFailed
from benchmarks.pa.export import Request, read_export


def read_one(path: Path, *args: Any, **inputs: Any) -> Request:
    (experiment,) = read_export(write(path, [request(*args, **inputs)]))
    return experiment.requests[0]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "profile.json"


def test_ids_are_counted(path: Path) -> None:
    one = read_one(
        path, 5, [(10, tokens(7)), (12, tokens(1, 2, 3)), (15, tokens(9))], max_tokens=5, input_ids=[4, 5, 6]
    )
    assert (one.tokens.tolist(), one.num_tokens, one.prompt_tokens, one.asked_tokens) == ([1, 3, 1], 5, 3, 5)
    assert (one.times - one.sent).tolist() == [5_000_000, 7_000_000, 10_000_000]
    assert not one.had_empty_final


def test_a_prompt_of_one_id_is_a_number_and_one_of_text_has_no_length(path: Path) -> None:
    assert read_one(path, 0, [(1, tokens(7))], input_ids=4).prompt_tokens == 1
    assert read_one(path, 0, [(1, tokens(7))], text_input="Hello").prompt_tokens is None


def test_the_stated_count_is_used_where_there_are_no_ids(path: Path) -> None:
    stated = {"text_output": "ab", "num_output_tokens": 2}
    assert read_one(path, 0, [(1, stated), (2, stated)]).tokens.tolist() == [2, 2]


def test_a_count_that_was_not_asked_for_is_old_memory(path: Path) -> None:
    garbage = {"text_output": "ab", "num_output_tokens": 3355443344}
    assert read_one(path, 0, [(1, garbage)], return_num_output_tokens=False).tokens.tolist() == [1]


def test_n_sequences_state_a_count_each(path: Path) -> None:
    assert read_one(path, 0, [(1, {"text_output": "a", "num_output_tokens": [2, 1]})]).tokens.tolist() == [3]


@pytest.mark.parametrize(
    "last",
    [
        {},
        {"text_output": ""},
        {"text_output": "", "output_ids": "", "num_output_tokens": 0},
        {"text_output": "", "output_ids": 1280, "num_output_tokens": 77},
        {"text_output": "", "output_ids": 1280, "num_output_tokens": 1},
    ],
    ids=["nothing", "no text", "no ids", "old memory", "old memory that agrees"],
)
def test_an_empty_last_response_is_left_out(path: Path, last: dict[str, Any]) -> None:
    one = read_one(path, 0, [(3, tokens(7)), (6, tokens(8)), (6.1, last)], max_tokens=2)
    assert one.had_empty_final
    assert one.tokens.tolist() == [1, 1]
    assert one.ended - one.sent == 6_000_000


def test_a_last_token_without_text_stays(path: Path) -> None:
    end = tokens(1) | {"text_output": ""}
    one = read_one(path, 0, [(3, tokens(7)), (6, end)], max_tokens=8)
    assert (one.num_tokens, one.had_empty_final) == (2, False)


def test_requests_are_in_the_order_they_were_sent(path: Path) -> None:
    (experiment,) = read_export(write(path, [request(9, [(10, tokens(1))]), request(2, [(8, tokens(1))])]))
    first, second = experiment.requests
    assert second.sent - first.sent == 7_000_000


def test_text_that_is_not_utf8_is_read(path: Path) -> None:
    write(path, [request(0, [(1, tokens(7) | {"text_output": "HALF"})])])
    path.write_bytes(path.read_bytes().replace(b"HALF", b"\xe2\x82"))
    assert read_export(path)[0].requests[0].num_tokens == 1


def test_server_sent_events_are_counted(path: Path) -> None:
    def event(ids: object) -> str:
        return f'data: {{"model_name":"flover","output_ids":{ids},"text_output":"\\n data: "}}\n\n'

    answer = [event(7), event(8) + event([9, 10]), event([1, 2, 3]), ""]
    one = read_one(path, 0, [(when, {"response": text}) for when, text in enumerate(answer, start=1)])
    assert (one.tokens.tolist(), one.had_empty_final) == ([1, 3, 3], True)
    other = [(1, {"response": 'data: {"text_output": "a"}\n\ndata: [DONE]\n\n'})]
    assert read_one(path, 0, other).tokens.tolist() == [1]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "not a complete export"),
        ('{"experiments": [{"exp', "not a complete export"),
        ('{"data": []}', "not a complete export"),
        ('{"experiments": []}', "holds no request"),
    ],
)
def test_what_is_no_export_is_refused(path: Path, content: str, says: str) -> None:
    path.write_text(content)
    with pytest.raises(MeasurementFailed, match=says):
        read_export(path)


def test_an_export_that_lacks_requests_is_broken(path: Path) -> None:
    write(path, [request(2, [(8, tokens(1))]), request(9, [(10, tokens(1))])])
    for enough in (None, 1, 2):
        assert len(read_export(path, enough)[0].requests) == 2
    with pytest.raises(BrokenExport, match="holds 2 requests of the 3 that perf_analyzer was to send"):
        read_export(path, 3)


def test_a_missing_file_is_refused(path: Path) -> None:
    with pytest.raises(MeasurementFailed, match=r"profile\.json"):
        read_export(path)


@pytest.mark.slow
def test_a_file_of_hundreds_of_megabytes_takes_little_beside_itself(path: Path) -> None:
    answer = [(number * 5.0, tokens(number % 1000)) for number in range(512)]
    one = request(0, answer, max_tokens=512, input_ids=list(range(512)))
    write(path, [one])
    whole = path.read_bytes()
    begin, end = whole.index(b'"requests": [') + len(b'"requests": ['), whole.rindex(b'], "window')
    body, copies = whole[begin:end], 4500
    with path.open("wb") as file:
        file.write(whole[:begin])
        for number in range(copies):
            file.write(body + (b"," if number < copies - 1 else b""))
        file.write(whole[end:])
    size = path.stat().st_size
    assert size > 300e6
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    (experiment,) = read_export(path)
    assert sum(request.num_tokens for request in experiment.requests) == copies * 512
    beside = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before - size
    assert beside < 0.5 * size
