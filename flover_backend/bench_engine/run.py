"""`flover bench engine`: every part on every model it concerns, one after another.

A part that fails is told as missed, and the others go on.
"""

from __future__ import annotations

import functools
import importlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from flover_backend.bench_engine import loading, parts
from flover_backend.bench_engine.checkpoint import write_checkpoint
from flover_backend.bench_engine.defaults import defaults
from flover_backend.bench_engine.figures import Line, Spread, failed
from flover_backend.bench_engine.idle import idle
from flover_backend.bench_engine.machine import describe_machine, in_words
from flover_backend.bench_engine.probes import Products, copy_bandwidth, dense_rate
from flover_backend.bench_engine.report import mark, save, table
from flover_backend.bench_engine.session import Probed, Session, Tell, free_device, resolve_bench_device
from flover_backend.bench_engine.shapes import SHAPES, Shape
from flover_backend.bench_engine.workloads import Sizes
from flover_backend.errors import ConfigError

DRIVING: dict[str, Callable[[Session], Iterator[Line]]] = {
    "first-token": parts.first_token,
    "decode": parts.decode,
    "arrivals": parts.arrivals,
    "prefill": parts.prefill,
    "join": parts.join,
    "moves": parts.moves,
    "idle": idle,
    "defaults": defaults,
}
"""Parts that drive an engine; `defaults`, which loads engines of its own, comes last."""
KERNELS = ("attention", "reorder")
PARTS = (*KERNELS, "load", *DRIVING)
CONCERNS = {"13b": ("first-token", "decode", "arrivals", "moves", "idle", "defaults", "load"),
            "8b": ("decode", "prefill", "join", "idle")}  # fmt: skip
"""Parts that are run of a model when none are asked for by name."""
OF_OTHERS = ("first-token", "decode", "prefill", "join", "idle")
PART_NAMES = {"memory": "load"}
"""Lines that another part measures."""
REFERENCE = "13b"


@dataclass(frozen=True, slots=True)
class EngineBenchOptions:
    """What is measured."""

    models: tuple[str, ...] = ("13b", "8b")
    only: tuple[str, ...] = ()
    """Names of `PARTS`; none: those that have a bar for the models (`CONCERNS`)."""
    json: Path | None = Path("out/bench-engine.json")
    rows: tuple[int, ...] | None = None
    """Of the decode iterations; None: as `sizes` says."""
    device: str = "auto"
    written: bool = False
    """The part `load` reads safetensors that are written first, instead of making random weights."""
    sizes: Sizes = field(default_factory=Sizes)
    shapes: dict[str, Shape] = field(default_factory=lambda: SHAPES)


class Bench:
    """One run: what was asked, what has been measured so far."""

    def __init__(self, options: EngineBenchOptions, tell: Tell) -> None:
        self._options, self._tell = options, tell
        self._only = tuple(dict.fromkeys(PART_NAMES.get(name, name) for name in options.only))
        _check("part", self._only, PARTS)
        _check("model", options.models, tuple(options.shapes))
        self._sizes = replace(options.sizes, rows=options.rows or options.sizes.rows)
        if any(count < 1 for count in self._sizes.rows):
            raise ConfigError(f"rows = {self._sizes.rows}; allowed: numbers from 1 on")
        self._device = resolve_bench_device(options.device)
        self.lines: list[Line] = []
        self.facts: dict[str, Any] = {
            "machine": describe_machine(self._device),
            "options": {"models": options.models, "only": options.only},
            "sizes": asdict(self._sizes),
            "probes": {},
        }
        self._bandwidth: Spread | None = None
        self._reference: dict[int, Spread] = {}

    def run(self) -> list[Line]:
        """Everything, the table last."""
        started = time.perf_counter()
        self._tell(in_words(self.facts["machine"]))
        self._bandwidth = copy_bandwidth(self._device)
        self.facts["probes"]["copy_bandwidth"] = self._bandwidth.scaled(1.0)
        self._tell(f"copy bandwidth {self._bandwidth.median / 1e12:.3f} TB/s")
        free_device(self._device)
        for name in KERNELS:
            if self._wanted(name, None):
                self._measure(name, "", functools.partial(self._kernels, name))
        for name in self._options.models:
            with tempfile.TemporaryDirectory(prefix="flover-bench-") as folder:
                shape = self._options.shapes[name]
                self._model(shape, shape.write(Path(folder)))
        self.facts["seconds"] = time.perf_counter() - started
        self._save()
        for row in table(self.lines):
            self._tell(row)
        if self._options.json:
            self._tell(f"saved: {self._options.json}")
        return self.lines

    def _kernels(self, name: str) -> Iterator[Line]:
        assert self._bandwidth is not None
        kernels = importlib.import_module("flover_backend.bench_engine.kernels")
        lines: Iterator[Line] = getattr(kernels, name)(self._device, self._bandwidth)
        return lines

    def _model(self, shape: Shape, directory: Path) -> None:
        driving = [name for name in DRIVING if self._wanted(name, shape.name)]
        if driving:
            try:
                session = self._session(shape, directory, driving)
            except Exception as error:
                self._add(failed("probes", shape.name, error))
            else:
                for name in driving:
                    self._measure(name, shape.name, functools.partial(DRIVING[name], session))
                session.unload()
        if self._wanted("load", shape.name):
            self._measure("load", shape.name, functools.partial(self._load, shape, directory))

    def _load(self, shape: Shape, directory: Path) -> Iterator[Line]:
        load_format = "random"
        if self._options.written:
            started = time.perf_counter()
            size = write_checkpoint(directory, self._dtype(shape), self._device)
            self._tell(f"wrote {size / 1e9:.1f} GB of weights in {time.perf_counter() - started:.1f} s")
            load_format = "auto"
        yield from loading.load(shape, directory, self._device, load_format, self._tell)

    def _session(self, shape: Shape, directory: Path, driving: Sequence[str]) -> Session:
        """The device is probed before the engine takes its memory."""
        assert self._bandwidth is not None
        sizes = self._sizes
        products: dict[int, Spread] = {}
        weights: Products | None = None
        rows = (*(sizes.rows if "decode" in driving else ()), *((32,) if "arrivals" in driving else ()))
        if rows and shape.name != REFERENCE and not self._reference and REFERENCE in self._options.shapes:
            self._reference, weights = self._products(self._options.shapes[REFERENCE], rows)
            weights = None
            free_device(self._device)
        if rows or "prefill" in driving:
            products, weights = self._products(shape, rows)
        if shape.name == REFERENCE:
            self._reference = products
        probed = Probed(self._bandwidth, products, self._reference)
        if weights is not None and "prefill" in driving:
            tokens, sampled = sizes.prefill_tokens, sizes.prefill_prompts
            probed.prefill_products = weights.seconds(tokens, sampled)
            probed.prefill_operations = weights.operations(tokens, sampled)
            probed.dense = dense_rate(self._device, self._dtype(shape), sizes.dense)
        weights = None
        free_device(self._device)
        self._note_probes(shape, probed)
        return Session(shape, directory, self._device, sizes, self._tell, probed)

    def _products(self, shape: Shape, rows: Sequence[int]) -> tuple[dict[int, Spread], Products]:
        """Times by rows; the weights are freed with the second."""
        products = Products(shape, self._dtype(shape), self._device)
        return {count: products.seconds(count) for count in dict.fromkeys(rows)}, products

    def _dtype(self, shape: Shape) -> torch.dtype:
        """What `dtype: auto` gives."""
        dtype: torch.dtype = getattr(torch, shape.config["torch_dtype"])
        return torch.float32 if self._device.type == "cpu" else dtype

    def _note_probes(self, shape: Shape, probed: Probed) -> None:
        facts = {"products_ms": {rows: spread.scaled(1e3) for rows, spread in probed.products.items()}}
        if probed.dense and probed.prefill_products:
            facts["dense_tflops"] = probed.dense.scaled(1e-12)  # type: ignore[assignment]
            facts["prefill_products_ms"] = probed.prefill_products.scaled(1e3)  # type: ignore[assignment]
        self.facts["probes"][shape.name] = facts
        if not probed.products:
            return
        figures = ", ".join(f"{rows}: {spread.median * 1e3:.3f}" for rows, spread in probed.products.items())
        self._tell(f"{shape.title}: weight products by rows, ms: {figures}")

    def _wanted(self, part: str, model: str | None) -> bool:
        if self._only:
            return part in self._only
        return model is None or part in CONCERNS.get(model, OF_OTHERS)

    def _measure(self, part: str, model: str, measure: Callable[[], Iterator[Line]]) -> None:
        started = time.perf_counter()
        try:
            for line in measure():
                self._add(line)
        except Exception as error:
            self._add(failed(part, model, error))
        self._tell(f"({part} {model}: {time.perf_counter() - started:.1f} s)")

    def _add(self, line: Line) -> None:
        self.lines.append(line)
        self._tell(f"{line.model} {line.what}: {line.figure} {f'(bar {line.bar}) ' if line.bar else ''}{mark(line)}")
        self._save()

    def _save(self) -> None:
        if self._options.json:
            save(self._options.json, self.facts, self.lines)


def bench_engine(options: EngineBenchOptions, tell: Tell = print) -> list[Line]:
    """Measure, tell and save. Raises `ConfigError` for names that are none."""
    return Bench(options, tell).run()


def _check(what: str, given: Sequence[str], known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            raise ConfigError(f"{what} {name!r}; allowed: {', '.join(known)}")
