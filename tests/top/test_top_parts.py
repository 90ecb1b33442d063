"""`flover top`'s parts on expositions that a real server made: two of a busy one, 5 s apart, and one of an idle one."""

from __future__ import annotations

import io
import json
import random
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from flover_backend.metric_families import FAMILIES, FAST_BOUNDS
from flover_backend.top.exposition import ModelKey, Reading, parse
from flover_backend.top.figures import LATENCIES, change, percentile, spread
from flover_backend.top.history import History
from flover_backend.top.lines import as_json, line
from flover_backend.top.scrape import ScrapeFailed, complete_url
from flover_backend.top.screen import picture

RECORDED = Path(__file__).parent / "recorded"
KEY = ModelKey("flover", "1")


def text_of(name: str) -> str:
    return (RECORDED / f"{name}.txt").read_text()


def reading(name: str) -> Reading:
    return parse(text_of(name))[KEY]


@pytest.fixture
def history() -> History:
    """Both looks at the busy server."""
    made = History(KEY, window_s=10)
    made.add(100.0, reading("earlier"))
    made.add(105.0, reading("later"))
    return made


def test_every_family_is_read() -> None:
    """A renamed family would make a figure of `top` 0 without a word."""
    found = reading("later")
    for family in FAMILIES:
        if family.name.startswith("flover_") and family.name != "flover_model_info":
            ends = ("_sum", "_count", "_bucket") if family.kind == "distribution" else ("",)
            assert all(found.by_label(family.name + end) for end in ends), family.name
    assert found.info == {
        "block_size": "16",
        "dtype": "float32",
        "max_model_len": "2048",
        "max_rows": "8",
        "reorder": "rows",
    }


def test_buckets_are_ordered_and_cumulative() -> None:
    for name in LATENCIES:
        buckets = reading("later").buckets(name)
        assert list(buckets) == sorted(buckets)
        assert all(low <= high for low, high in pairwise(buckets.values()))
        assert buckets[float("inf")] == reading("later").value(f"{name}_count")


def test_what_happened_between_two_looks(history: History) -> None:
    """The expected figures are differences of the recorded lines, found by their text."""

    def gained(series: str) -> float:
        earlier, later = (
            re.search(rf"^{re.escape(series)} (\S+)$", text_of(name), re.M) for name in ("earlier", "later")
        )
        assert earlier is not None and later is not None
        return float(later[1]) - float(earlier[1])

    own = 'model="flover",version="1"'
    rates = history.window()
    found = rates.change
    assert rates.seconds == 5
    assert found.iterations == gained(f"flover_iteration_rows_count{{{own}}}") > 0
    assert found.rows == pytest.approx(gained(f"flover_iteration_rows_sum{{{own}}}") / found.iterations)
    assert found.decode_tokens == gained(f"flover_decode_tokens_total{{{own}}}") > 0
    assert rates.per_second(found.decode_tokens) == found.decode_tokens / 5
    assert found.finished == {
        "length": gained('flover_requests_finished_total{model="flover",reason="length",version="1"}')
    }
    assert found.inter_token_latency is not None
    assert found.inter_token_latency.count == gained(f"flover_inter_token_latency_seconds_count{{{own}}}")
    seconds = gained(f"flover_inter_token_latency_seconds_sum{{{own}}}")
    assert found.inter_token_latency.mean == pytest.approx(seconds / found.inter_token_latency.count)
    assert history.rows[-1] == found.rows


def test_an_idle_server_has_no_latencies() -> None:
    made = History(KEY, 10)
    for now in (0.0, 1.0, 2.0):
        made.add(now, reading("idle"))
    found = made.window().change
    assert (found.rows, found.inter_token_latency, found.finished) == (None, None, {})
    assert list(made.rows) == [0, 0, 0]


@given(st.lists(st.floats(0.0, 4.0), min_size=1, max_size=200), st.sampled_from([0.5, 0.95, 0.99]))
def test_a_percentile_lies_in_the_bucket_of_the_true_one(values: list[float], share: float) -> None:
    bounds = [*FAST_BOUNDS, float("inf")]
    cumulative = {bound: float(sum(value <= bound for value in values)) for bound in bounds}
    wanted = share * len(values)
    true = next(value for rank, value in enumerate(sorted(values), start=1) if rank >= wanted)
    high = next(bound for bound in bounds if true <= bound)
    low = max([bound for bound in (0.0, *FAST_BOUNDS) if bound < high], default=0.0)
    assert low <= percentile(cumulative, share) <= min(high, FAST_BOUNDS[-1])


def test_a_percentile_between_equal_values() -> None:
    assert percentile({1.0: 0.0, 2.0: 100.0, float("inf"): 100.0}, 0.5) == pytest.approx(1.5)
    assert percentile({1.0: 0.0, 2.0: 0.0, float("inf"): 3.0}, 0.5) == 2.0


def test_a_scrape_between_two_series_of_a_snapshot() -> None:
    """Buckets of the new snapshot, the rest of the old one: no negative count."""
    torn = reading("later")
    torn.values |= {
        series: value
        for series, value in reading("earlier").values.items()
        if series[0].endswith("_bucket") and series[1] in ("0.005", "+Inf")
    }
    for name in LATENCIES:
        found = spread(reading("earlier"), torn, name)
        assert found is None or (found.count >= 0 and 0 <= found.p50 <= found.p95 <= found.p99)


def test_counters_that_fall_start_a_model_anew(history: History) -> None:
    """A reload or a new server: nothing negative, and nothing of the old one in the rates."""
    fresh = reading("idle")
    fresh.values["flover_requests_rejected_total", "invalid_arg"] = 0
    history.add(106.0, fresh)
    assert history.window().seconds == 0
    assert history.window().per_second(1) is None
    assert "tokens/s -" in line(history)
    history.add(107.0, reading("earlier"))
    assert history.window().change == change(fresh, reading("earlier"))
    assert len(history.rows) == 4


def test_the_window_moves() -> None:
    made = History(KEY, window_s=10)
    for second in range(60):
        made.add(float(second), reading("idle"))
    assert made.window().seconds == 10
    assert len(made.rows) == 60


def test_several_models_and_versions() -> None:
    text = text_of("later")
    other = re.sub(r"^#.*\n", "", text, flags=re.M)
    both = parse(text + other.replace('model="flover"', 'model="chat"').replace('version="1"', 'version="2"'))
    assert list(both) == [ModelKey("chat", "2"), KEY]
    assert both[ModelKey("chat", "2")].values == both[KEY].values
    assert KEY.is_meant_by("flover") and KEY.is_meant_by("flover/1") and not KEY.is_meant_by("flover/2")


def test_what_an_unloaded_model_leaves_behind() -> None:
    """Triton 24.10 goes on to serve all of ours; of its own it takes most away."""
    lines = text_of("later").splitlines(keepends=True)
    gone = "".join(line for line in lines if not line.startswith("nv_inference_count"))
    assert "flover_model_info{" in gone
    assert parse(gone) == {}
    only_ours = "".join(line for line in lines if "nv_inference" not in line)
    assert list(parse(only_ours)) == [KEY]


@pytest.mark.parametrize("order", [(3, 5), (5, 3)])
def test_what_a_reload_has_replaced_is_not_shown(order: tuple[int, int]) -> None:
    """Both series are there; the one that is loaded is 1."""
    labels = 'block_size="16",dtype="float32",max_model_len="8",model="m",reorder="rows",version="1"'
    lines = [f'flover_model_info{{max_rows="{rows}",{labels}}} {int(rows == 5)}' for rows in order]
    (reading,) = parse("\n".join(["# TYPE flover_model_info gauge", *lines, ""])).values()
    assert reading.info["max_rows"] == "5"


def test_other_servers_have_no_flover_models() -> None:
    assert parse('# TYPE nv_inference_count counter\nnv_inference_count{model="m",version="1"} 4\n') == {}
    assert parse("") == {}
    with pytest.raises(ValueError):
        parse("<html>nginx</html>")


@pytest.mark.parametrize(
    ("given_url", "complete"),
    [
        ("127.0.0.1:8002", "http://127.0.0.1:8002/metrics"),
        ("http://host:9000/", "http://host:9000/metrics"),
        ("https://host/triton/metrics", "https://host/triton/metrics"),
        ("[::1]:8002", "http://[::1]:8002/metrics"),
    ],
)
def test_addresses(given_url: str, complete: str) -> None:
    assert complete_url(given_url) == complete


@pytest.mark.parametrize("bad", ["", "ftp://host/metrics", "http://"])
def test_no_address(bad: str) -> None:
    with pytest.raises(ScrapeFailed, match="--url"):
        complete_url(bad)


def test_a_line(history: History) -> None:
    text = line(history)
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d flover/1  rows \d\.\d/8  running 5  waiting 0  kv 4%  tokens/s \d+\.\d  prefill/s \d+\.\d"
        r"  first token \S+ ms/\S+ ms/\S+ ms  inter-token \S+ ms/\S+ ms/\S+ ms",
        text,
    ), text


def test_json(history: History) -> None:
    (model,) = json.loads(as_json("http://x/metrics", [history]))["models"]
    assert (model["model"], model["version"], model["max_rows"], model["dtype"]) == ("flover", "1", 8, "float32")
    assert model["running"] == 5
    assert model["kv_blocks_used"] + model["kv_blocks_free"] == 1024
    assert model["window"]["decode_tokens_per_s"] == model["window"]["decode_tokens"] / 5
    assert model["since_load"]["decode_tokens"] > model["window"]["decode_tokens"]
    assert set(model["since_load"]["inter_token_latency"]) == {"count", "mean", "p50", "p95", "p99", "last_bound"}


@pytest.mark.parametrize(("width", "height"), [(20, 5), (60, 24), (80, 24), (110, 34), (200, 60)])
@pytest.mark.parametrize("num_models", [0, 1, 3])
def test_the_picture_keeps_to_the_terminal(history: History, width: int, height: int, num_models: int) -> None:
    history.rows.extend(random.Random(1).random() * 8 for _ in range(300))
    console = Console(width=width, height=height, file=io.StringIO())
    lines = console.render_lines(picture(console, [history] * num_models, None, "http://x/metrics", 1.0))
    assert max(sum(segment.cell_length for segment in one) for one in lines) <= width
    assert len(lines) <= max(height, 15)


def test_the_picture_shows_what_is_known_and_what_is_wrong(history: History) -> None:
    out = io.StringIO()
    console = Console(width=110, height=34, file=out)
    console.print(picture(console, [history], "no server answers", "http://x/metrics", 1.0))
    text = out.getvalue()
    for part in ("flover version 1", "of 8  (5 running)", "0 waiting", "44 of 1024 blocks", "inter-token"):
        assert part in text
    assert "no server answers" in text
    assert "█" in text
