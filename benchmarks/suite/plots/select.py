"""Which runs a plot shows: groups of one model and layer, and of several settings of a way the best."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.suite.figures import answered, family
from benchmarks.suite.plots.style import order
from benchmarks.suite.result import Run


@dataclass(frozen=True)
class Group:
    """Runs that one picture may show."""

    model: str
    layer: str
    """A family of layers (figures.py); empty where the picture shows all layers."""
    runs: tuple[Run, ...]


def by_layer(runs: Iterable[Run]) -> list[Group]:
    """One for each model and family of layers, in the order of the runs."""
    return _grouped((run.model, family(run.layer), run) for run in runs)


def by_engine(runs: Iterable[Run]) -> list[Group]:
    """One for each model, of those runs whose iterations are known."""
    return _grouped((run.model, "engine", run) for run in runs if run.iterations)


def by_model(runs: Iterable[Run]) -> list[Group]:
    """One for each model, all layers in it."""
    return _grouped((run.model, "", run) for run in runs)


def _grouped(runs: Iterable[tuple[str, str, Run]]) -> list[Group]:
    found: dict[tuple[str, str], list[Run]] = {}
    for model, layer, run in runs:
        found.setdefault((model, layer), []).append(run)
    return [Group(model, layer, tuple(of_group)) for (model, layer), of_group in found.items()]


def whole(runs: Iterable[Run]) -> list[Run]:
    """Those in which no request failed: the time of others is not that of their requests."""
    return [run for run in runs if len(answered(run)) == len(run.requests)]


def best(runs: Iterable[Run]) -> list[Run]:
    """Of each way, workload and layer the fastest run: a way gets its best setting."""
    found: dict[tuple[str, str, str], Run] = {}
    for run in runs:
        key = (run.way, run.workload, run.layer)
        if key not in found or run.wall_s < found[key].wall_s:
            found[key] = run
    return list(found.values())


def series_of(runs: Iterable[Run]) -> list[tuple[str, str]]:
    """(way, layer) in the order of bars."""
    return sorted(dict.fromkeys((run.way, run.layer) for run in runs), key=lambda pair: (order(pair[0]), pair[1]))


def number(run: Run, fact: str) -> float | None:
    """A fact of its workload as a number."""
    value = run.facts.get(fact)
    return float(value) if isinstance(value, int | float) else None


def values(runs: Iterable[Run], fact: str) -> list[float]:
    """The different ones, ascending."""
    return sorted({value for run in runs if (value := number(run, fact)) is not None})


def spread_out(items: Sequence[Run], fact: str, most: int) -> list[Run]:
    """At most `most`, evenly chosen by a fact, its least and greatest among them."""
    ordered = sorted(items, key=lambda run: number(run, fact) or 0.0)
    if len(ordered) <= most:
        return ordered
    return [ordered[round(place * (len(ordered) - 1) / (most - 1))] for place in range(most)]
