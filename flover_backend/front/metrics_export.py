"""Writes the engine's snapshots to Triton's /metrics while this front is the leader.

Every front creates all families and all their series when it loads, so that a leader's end takes none of them away.
The table of families is metric_families.py's. Each write is a round trip to Triton, so a thread of its own does it,
and of snapshots that come faster than they can be written only the last counts.

A series stays in Triton's registry when its model is unloaded or its engine is gone; its gauges are set to 0 then.
(Giving the handles back would remove it. 24.10 crashed when one front did so while another held the same series.)
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from flover_backend import metric_families
from flover_backend.channel import EngineInfo, Metrics
from flover_backend.front.logs import Log
from flover_backend.metric_families import Family, series
from flover_backend.thread_names import tell_kernel_the_name


def label_sets(family: Family, info: EngineInfo) -> Iterator[dict[str, str]]:
    """All label values that the engine may use with a declared family."""
    if family.labels and family.labels[0] == "block_size":
        yield {label: str(getattr(info, label)) for label in family.labels}
        return
    for values in itertools.product(*(_values(family, label) for label in family.labels)):
        yield dict(zip(family.labels, values, strict=True))


def _values(family: Family, label: str) -> tuple[str, ...]:
    return {
        "le": (*(f"{bound:g}" for bound in family.bounds), "+Inf"),
        "request_type": ("waiting", "active"),
        "outcome": metric_families.OUTCOMES,
        "kv_cache_block_type": ("used", "max", "free", "tokens_per", "fraction"),
        "reason": metric_families.FINISH_REASONS if "finished" in family.name else metric_families.REJECT_REASONS,
    }[label]


class TritonSeries:
    """All series of this model in Triton's registry: series name as the engine writes it -> pb_utils metric."""

    def __init__(self, pb_utils: Any, info: EngineInfo, model: str, version: str) -> None:
        """Raises what pb_utils raises when the server has its metrics disabled."""
        self._families = []
        self.counters: dict[str, Any] = {}
        self.gauges: dict[str, Any] = {}
        for family in metric_families.declared():
            is_gauge = family.kind == "gauge"
            kind = pb_utils.MetricFamily.GAUGE if is_gauge else pb_utils.MetricFamily.COUNTER
            handle = pb_utils.MetricFamily(name=family.name, description=family.help, kind=kind)
            self._families.append(handle)
            metrics = self.gauges if is_gauge else self.counters
            for labels in label_sets(family, info):
                metrics[series(family.name, **labels)] = handle.Metric(
                    labels={"model": model, "version": version, **labels}
                )


@dataclass(frozen=True, slots=True)
class _Leads:
    """This front leads from here on."""

    acknowledged: Metrics | None


@dataclass(frozen=True, slots=True)
class _Increments:
    """Of counters by series name; this front's own."""

    amounts: dict[str, int]


@dataclass(frozen=True, slots=True)
class _EngineGone:
    """No snapshot comes until another engine names a leader: the gauges are 0."""


class MetricsWriter:
    """The leader's pen. In a front that is not the leader it only holds the series."""

    def __init__(
        self,
        pb_utils: Any,
        info: EngineInfo,
        written: Callable[[int], None],
        model: str,
        version: str,
        log: Log,
    ) -> None:
        """`written(sequence)` is called when a snapshot is in Triton's registry."""
        self._written = written
        self._log = log
        self._series: TritonSeries | None = None
        try:
            self._series = TritonSeries(pb_utils, info, model, version)
        except Exception as error:
            log.warn(
                f"no metrics: the server takes none ({error}); start it without --allow-metrics=false to have them"
            )
        self._totals: dict[str, float] = {}
        """What of each counter of this engine is in Triton's registry."""
        self._unknown: dict[str, None] = {}
        self._news = threading.Condition()
        self._news_in_order: list[_Leads | Metrics | _Increments | _EngineGone] = []
        self._closing = False
        self._leads = False
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def on_leader(self, acknowledged: Metrics | None) -> None:
        """This front writes from now on."""
        with self._news:
            self._news_in_order.append(_Leads(acknowledged))
            self._news.notify()

    def on_metrics(self, metrics: Metrics) -> None:
        """Write this snapshot soon, unless a later one comes first."""
        with self._news:
            if self._news_in_order and isinstance(self._news_in_order[-1], Metrics):
                self._news_in_order.pop()
            self._news_in_order.append(metrics)
            self._news.notify()

    def count(self, increments: dict[str, int]) -> None:
        """Add to series that every front writes its own share of."""
        with self._news:
            self._news_in_order.append(_Increments(increments))
            self._news.notify()

    def on_engine_gone(self) -> None:
        """No snapshot will come any more: the leader sets the gauges to 0."""
        with self._news:
            self._news_in_order.append(_EngineGone())
            self._news.notify()

    def close(self, timeout_s: float) -> bool:
        """Write what came, set the leader's gauges to 0 (a successor writes its own), end the thread.

        False when it took longer than `timeout_s`.
        """
        with self._news:
            self._closing = True
            self._news_in_order.append(_EngineGone())
            self._news.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        tell_kernel_the_name()
        while True:
            with self._news:
                self._news.wait_for(lambda: self._news_in_order)
                news, self._news_in_order = self._news_in_order, []
                closing = self._closing
            for item in news:
                try:
                    self._take_in(item)
                except Exception as error:
                    self._log.error(f"metrics could not be written: {error!r}")
            if closing:
                return

    def _take_in(self, item: _Leads | Metrics | _Increments | _EngineGone) -> None:
        if isinstance(item, Metrics):
            self._write(item)
        elif isinstance(item, _Increments):
            for name, amount in item.amounts.items():
                metric = self._find(self._series.counters, name) if self._series is not None else None
                if metric is not None:
                    metric.increment(amount)
        elif isinstance(item, _Leads):
            self._take_over(item.acknowledged)
        elif self._leads:
            self._leads = False
            for metric in self._series.gauges.values() if self._series is not None else ():
                metric.set(0)

    def _take_over(self, acknowledged: Metrics | None) -> None:
        """What this engine's predecessor in writing has got into the registry; a registry that lost it counts less."""
        self._leads = True
        known = {} if acknowledged is None else acknowledged.counters
        counters = self._series.counters if self._series is not None else {}
        self._totals = {name: min(total, counters[name].value()) for name, total in known.items() if name in counters}

    def _write(self, metrics: Metrics) -> None:
        if self._series is not None:
            for name, total in metrics.counters.items():
                self._raise_to(name, total)
            for name, value in metrics.gauges.items():
                metric = self._find(self._series.gauges, name)
                if metric is not None:
                    metric.set(value)
        self._written(metrics.sequence)

    def _raise_to(self, name: str, total: float) -> None:
        assert self._series is not None
        increment = total - self._totals.get(name, 0.0)
        metric = self._find(self._series.counters, name) if increment > 0 else None
        if metric is not None:
            metric.increment(increment)
            self._totals[name] = total

    def _find(self, metrics: dict[str, Any], name: str) -> Any:
        metric = metrics.get(name)
        if metric is None and name not in self._unknown:
            self._unknown[name] = None
            self._log.warn(f"metric series {name} is not in the table of families; it is not exported")
        return metric
