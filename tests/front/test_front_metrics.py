"""Snapshots in Triton's registry: increments, takeover, and families that outlive a leader."""

from __future__ import annotations

from typing import Any

import pytest
from fake_triton import Logger, Registry, make_module
from front_host import wait_until
from small_info import INFO

from flover_backend.channel import EngineInfo, Metrics
from flover_backend.engine.interface import EngineGauges
from flover_backend.engine.metrics import EngineMetrics
from flover_backend.front.logs import Log
from flover_backend.front.metrics_export import MetricsWriter

TOKENS = "flover_decode_tokens_total"


class Front:
    """One front's writer; `written` are the snapshots it has acknowledged."""

    def __init__(self, registry: Registry, info: EngineInfo = INFO, pb_utils: Any = None) -> None:
        self.written: list[int] = []
        module = pb_utils or make_module(registry)
        self.writer = MetricsWriter(module, info, self.written.append, "flover", "1", Log("f", "text", Logger))

    def write(self, sequence: int, tokens: float, **gauges: float) -> None:
        self.writer.on_metrics(Metrics(sequence, {TOKENS: tokens}, gauges))
        wait_until(lambda: sequence in self.written)


@pytest.fixture(autouse=True)
def _log() -> None:
    Logger.lines = []


def test_totals_become_increments_and_gauges_are_set(registry: Registry) -> None:
    front = Front(registry)
    front.writer.on_leader(None)
    front.write(1, 10, flover_requests_running=3)
    front.write(2, 25, flover_requests_running=1)
    assert registry.value(TOKENS) == 25
    assert registry.value("flover_requests_running") == 1


def test_every_series_of_a_real_snapshot_is_known(registry: Registry) -> None:
    front = Front(registry)
    front.writer.on_leader(None)
    gauges = EngineGauges(
        num_running=1,
        num_waiting=2,
        num_waiting_tokens=3,
        used_blocks=4,
        free_blocks=60,
        most_used_blocks=5,
        kv_bytes_mapped=4096,
    )
    front.writer.on_metrics(EngineMetrics(INFO).snapshot(gauges))
    wait_until(lambda: front.written)
    assert [line for level, line in Logger.lines if level != "info"] == []
    labels = {"block_size": "16", "dtype": "float32", "max_model_len": "128", "max_rows": "8", "reorder": "rows"}
    assert registry.value("flover_model_info", **labels) == 1
    assert registry.value("nv_trt_llm_kv_cache_block_metrics", kv_cache_block_type="used") == 4


def test_all_series_exist_before_anything_is_written(registry: Registry) -> None:
    Front(registry)
    assert registry.value("flover_requests_finished_total", reason="stop") == 0
    assert registry.value("flover_time_to_first_token_seconds_bucket", le="+Inf") == 0


def test_a_takeover_adds_only_what_is_missing(registry: Registry) -> None:
    first, second = Front(registry), Front(registry)
    first.writer.on_leader(None)
    first.write(1, 10)
    first.writer.close(5)
    second.writer.on_leader(Metrics(1, {TOKENS: 10}, {}))
    second.write(2, 14)
    assert registry.value(TOKENS) == 14


def test_a_takeover_by_a_registry_that_lost_the_values_writes_them_again(registry: Registry) -> None:
    front = Front(registry)
    front.writer.on_leader(Metrics(1, {TOKENS: 10}, {}))
    front.write(2, 14)
    assert registry.value(TOKENS) == 14


def test_a_new_engine_adds_to_what_an_old_one_left(registry: Registry) -> None:
    old, new = Front(registry), Front(registry)
    old.writer.on_leader(None)
    old.write(1, 100)
    new.writer.on_leader(None)
    new.write(1, 5)
    assert registry.value(TOKENS) == 105


def test_counters_that_came_back_are_written_in_full(registry: Registry) -> None:
    front = Front(registry)
    front.writer.on_leader(None)
    front.write(1, 10)
    front.write(2, 10)
    assert registry.value(TOKENS) == 10


def test_a_series_that_is_not_in_the_table_is_said_once(registry: Registry) -> None:
    front = Front(registry)
    for sequence in (1, 2):
        front.writer.on_metrics(Metrics(sequence, {"flover_new_total": 3}, {"flover_other": 1}))
        wait_until(lambda wanted=sequence: wanted in front.written)
    warnings = [line for level, line in Logger.lines if level == "warn"]
    assert len(warnings) == 2
    assert "flover_new_total" in warnings[0]


def test_a_server_without_metrics_is_said_once_and_the_front_goes_on(registry: Registry) -> None:
    module = make_module(registry)

    def refuse(**_: object) -> None:
        raise RuntimeError("metrics not supported")

    module.MetricFamily = type("MetricFamily", (), {"COUNTER": 0, "GAUGE": 1, "__init__": lambda self, **_: refuse()})
    front = Front(registry, pb_utils=module)
    front.writer.on_leader(None)
    front.write(1, 10, flover_requests_running=1)
    front.write(2, 11)
    assert len([line for level, line in Logger.lines if level == "warn"]) == 1
    assert not [line for level, line in Logger.lines if level == "error"]


def test_only_the_latest_of_waiting_snapshots_is_written(registry: Registry) -> None:
    front = Front(registry)
    front.writer.on_leader(None)
    with front.writer._news:
        for sequence in range(1, 50):
            front.writer.on_metrics(Metrics(sequence, {TOKENS: float(sequence)}, {}))
    wait_until(lambda: 49 in front.written)
    assert front.written == [49]
    assert registry.value(TOKENS) == 49


def test_closing_writes_what_has_come(registry: Registry) -> None:
    front = Front(registry)
    front.writer.on_leader(None)
    front.writer.on_metrics(Metrics(1, {TOKENS: 8}, {}))
    assert front.writer.close(5)
    assert registry.value(TOKENS) == 8


def test_a_leader_whose_engine_is_gone_clears_its_gauges_and_keeps_its_counters(registry: Registry) -> None:
    front = Front(registry)
    front.writer.on_leader(None)
    front.write(1, 10, flover_requests_running=3)
    front.writer.on_engine_gone()
    wait_until(lambda: registry.value("flover_requests_running") == 0)
    assert registry.value(TOKENS) == 10


def test_a_leader_that_closes_clears_its_gauges_and_its_successor_writes_them(registry: Registry) -> None:
    first, second = Front(registry), Front(registry)
    first.writer.on_leader(None)
    first.write(1, 10, flover_kv_blocks_free=5)
    assert first.writer.close(5)
    assert registry.value("flover_kv_blocks_free") == 0
    second.writer.on_leader(Metrics(1, {TOKENS: 10.0}, {}))
    second.write(2, 12, flover_kv_blocks_free=6)
    assert registry.value("flover_kv_blocks_free") == 6
    assert registry.value(TOKENS) == 12


def test_a_front_that_does_not_lead_leaves_the_gauges_alone(registry: Registry) -> None:
    leader, other = Front(registry), Front(registry)
    leader.writer.on_leader(None)
    leader.write(1, 10, flover_kv_blocks_free=5)
    other.writer.on_engine_gone()
    assert other.writer.close(5)
    assert registry.value("flover_kv_blocks_free") == 5
