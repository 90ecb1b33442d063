"""The demo's parts, each on its own: schedule, figures, chart, screens, report, picture, traffic."""

from __future__ import annotations

import asyncio
import io
import itertools
import statistics
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from matplotlib import image
from recorded_run import iterations, record, records
from rich.console import Console

from flover_backend.client import Delta, RequestFailed
from flover_backend.demo import traffic as traffic_module
from flover_backend.demo.chart import draw
from flover_backend.demo.figures import Spread, figures, gaps, spread
from flover_backend.demo.picture import save_picture
from flover_backend.demo.questions import QUESTIONS
from flover_backend.demo.report import print_answers, table
from flover_backend.demo.schedule import ANSWER_TOKENS, MEAN_GAP_S, Lengths, make_schedule, parse_lengths
from flover_backend.demo.screen import LiveScreen, PlainScreen, make_screen
from flover_backend.demo.traffic import Traffic
from flover_backend.errors import InvalidRequest


def test_there_are_24_different_questions() -> None:
    assert len(dict.fromkeys(QUESTIONS)) == 24


def test_arrivals_are_a_poisson_process_with_a_fixed_seed() -> None:
    schedule = make_schedule(1000)
    times = [arrival.time_s for arrival in schedule]
    gaps_between = [after - before for before, after in itertools.pairwise(times)]
    assert schedule == make_schedule(1000)
    assert times[0] == 0
    assert statistics.mean(gaps_between) == pytest.approx(MEAN_GAP_S, rel=0.1)
    assert statistics.stdev(gaps_between) == pytest.approx(MEAN_GAP_S, rel=0.1)  # an exponential's equals its mean
    assert {(arrival.max_tokens, arrival.exact) for arrival in schedule} == {(ANSWER_TOKENS, False)}


def test_flovers_own_demonstration_has_constant_gaps_and_uniform_lengths() -> None:
    schedule = make_schedule(32, gap_s=0.5, lengths=Lengths(128, 512))
    assert [arrival.time_s for arrival in schedule] == [number * 0.5 for number in range(32)]
    assert all(128 <= arrival.max_tokens <= 512 and arrival.exact for arrival in schedule)
    assert len({arrival.max_tokens for arrival in schedule}) > 20


@pytest.mark.parametrize("text", ["", "128", "128:", ":512", "0:5", "6:5", "a:b", "-1:5", "1:2:3"])
def test_other_lengths_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="allowed is LOW:HIGH"):
        parse_lengths(text)


def test_spread_is_by_nearest_rank() -> None:
    assert spread([float(value) for value in range(100)]) == Spread(50.0, 95.0, 99.0)
    assert spread([]) == Spread(0.0, 0.0, 0.0)


def test_tokens_of_one_response_share_the_gap_before_it() -> None:
    made = record(1, 0.0, 0.0, 1)
    made.token_times = [1.0, 2.0, 4.0, 4.0]
    assert gaps(made) == [1.0, 1.0, 1.0]


def test_figures_of_a_run() -> None:
    found = figures(records(), iterations())
    assert found.num_tokens == 16
    assert found.seconds == pytest.approx(0.9)
    assert found.first_token.worst == pytest.approx(0.2)
    assert found.gap.median == pytest.approx(0.1)
    assert (found.num_iterations, found.most_rows, found.num_reorders, found.num_row_moves) == (10, 3, 1, 1)
    assert found.mean_rows == 2.0


@pytest.mark.parametrize("num_iterations", [0, 1, 9, 40, 41, 1000])
def test_the_chart_keeps_to_its_size(num_iterations: int) -> None:
    lines = draw([step % 7 for step in range(num_iterations)], width=40, height=10)
    assert len(lines) == 10
    assert max(len(line) for line in lines) <= 40
    assert f"{num_iterations} iterations" in lines[-1]


def test_a_bar_is_as_high_as_its_rows() -> None:
    lines = draw([0, 4, 8], width=20, height=10)
    columns = ["".join(line[3 + bar] for line in lines[:8] if len(line) > 3 + bar) for bar in range(3)]
    assert [column.count("█") for column in columns] == [0, 4, 8]
    assert lines[0].startswith("8 │")


class RecordedTraffic(Traffic):
    """A run that is already over."""

    def __init__(self) -> None:
        self.records = records()


def test_plain_lines_tell_arrivals_and_ends_in_order_and_once() -> None:
    out = io.StringIO()
    screen = make_screen(Console(file=out, width=40))
    assert isinstance(screen, PlainScreen)
    with screen:
        screen.update(RecordedTraffic(), iterations())
        screen.update(RecordedTraffic(), [])
    told = [line.split("  ", 1)[1].strip() for line in out.getvalue().splitlines() if "request " in line]
    assert told == [
        "request 1 arrives: Question 1? (1 in flight)",
        "request 2 arrives: Question 2? (2 in flight)",
        "request 3 arrives: Question 3? (3 in flight)",
        "request 2 is finished: 4 tokens (2 in flight)",
        "request 3 is finished: 3 tokens (1 in flight)",
        "request 1 is finished: 9 tokens (0 in flight)",
    ]
    assert "\x1b" not in out.getvalue()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (200, 12)])
def test_the_live_screen_fits_and_shows_everything(width: int, height: int) -> None:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, record=True)
    screen = make_screen(console)
    assert isinstance(screen, LiveScreen)
    console.print(screen.picture(RecordedTraffic(), iterations()))
    text = console.export_text()
    for part in ("3/3 answered", "16 tokens", "per iteration, now 1", "incoming", "finished", "█"):
        assert part in text
    assert max(len(line) for line in text.splitlines()) <= width
    assert len(text.splitlines()) <= height


def test_answers_are_one_line_each_and_a_cut_one_says_so() -> None:
    out = io.StringIO()
    print_answers(Console(file=out, width=40), records())
    assert "1. Question 1?\n    Answer 1.\n" in out.getvalue()
    assert "    Answer 3. …\n" in out.getvalue()


def test_the_table_has_every_figure() -> None:
    console = Console(file=io.StringIO(), width=120, record=True)
    console.print(table(figures(records(), iterations())))
    text = console.export_text()
    for name in ("time to first token", "inter-token latency", "tokens/s", "most rows in one iteration", "reorders"):
        assert name in text
    assert "17.8  (16 tokens in 0.9 s)" in text


def test_the_picture_is_a_readable_png(tmp_path: Path) -> None:
    path = tmp_path / "new" / "demo.png"
    save_picture(path, records(), iterations())
    pixels = image.imread(path)
    assert pixels.shape[0] > 800
    assert pixels.shape[1] > 1200
    assert pixels[..., :3].std() > 0.05


class FakeClient:
    """Two responses with three tokens, or a refusal."""

    def __init__(self, refuse: str = "") -> None:
        self.refuse = refuse
        self.given: list[dict[str, Any]] = []

    async def generate(self, prompt: str, **parameters: Any) -> AsyncIterator[Delta]:
        self.given.append({"prompt": prompt, **parameters})
        if self.refuse in prompt and self.refuse:
            raise RequestFailed("refused")
        yield Delta("one", 1, 5, "None")
        await asyncio.sleep(0)
        yield Delta(" two three", 2, 5, "stop")


def make_traffic(monkeypatch: pytest.MonkeyPatch, num_requests: int) -> Traffic:
    monkeypatch.setattr(traffic_module, "chat_prompt", lambda question, model_dir: f"<{question}>")
    return Traffic(make_schedule(num_requests, gap_s=0.01), Path())


def test_traffic_sends_each_request_and_notes_its_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    traffic, client = make_traffic(monkeypatch, 3), FakeClient()
    start = time.monotonic()
    asyncio.run(traffic.run(client))  # type: ignore[arg-type]
    assert traffic.num_ended == 3
    assert traffic.num_tokens == 9
    assert [given["prompt"] for given in client.given] == [f"<{question}>" for question in QUESTIONS[:3]]
    assert client.given[0]["temperature"] == 0
    assert [record.text for record in traffic.records] == ["one two three"] * 3
    assert all((record.sent or 0) >= start + record.arrival.time_s for record in traffic.records)


def test_a_refused_request_ends_the_run_with_its_own_error(monkeypatch: pytest.MonkeyPatch) -> None:
    traffic = make_traffic(monkeypatch, 3)
    with pytest.raises(RequestFailed, match=r"^refused$"):
        asyncio.run(traffic.run(FakeClient(refuse="sky")))  # type: ignore[arg-type]
