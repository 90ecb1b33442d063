"""Planned runs through servers, one server after another: Triton, which perf_analyzer shares, then PyTriton.

Knows the order and what a server's failure means for its runs; the layers themselves are in `layers/`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.suite.layers import Layer, open_layer
from benchmarks.suite.plan import Planned
from flover_backend.bench_engine.shapes import Shape

SHARING = (("triton", "perf_analyzer"), ("pytriton",))
"""Layers on one server; each needs the device's memory for itself."""
Miss = Callable[[Planned, Exception], None]
Measure = Callable[[Planned, Layer], None]


def through_servers(
    runs: Sequence[Planned],
    model: Shape | str,
    load_format: str,
    tell: Callable[[str], None],
    measure: Measure,
    miss: Miss,
    **settings: Any,
) -> None:
    """Call `measure` with each run and its open layer, or `miss` with the error that kept its server from starting."""
    with _served(model, load_format) as (name, weights):
        for names in SHARING:
            with ExitStack() as stack:
                server: dict[str, Any] = {}
                for layer in names:
                    of_layer = [run for run in runs if run.layer == layer]
                    if not of_layer:
                        continue
                    try:
                        opened = stack.enter_context(open_layer(layer, name, weights, tell, **(server or settings)))
                    except Exception as error:
                        for planned in of_layer:
                            miss(planned, error)
                        continue
                    server = {"server": opened} if layer == "triton" else server
                    for planned in of_layer:
                        measure(planned, opened)


@contextmanager
def _served(model: Shape | str, load_format: str) -> Iterator[tuple[str, str]]:
    """(name or directory, load_format); a shape of Flover's own file has a directory while this is open."""
    if isinstance(model, str):
        yield model, load_format
        return
    with TemporaryDirectory(prefix="flover-suite-") as folder:
        yield str(model.write(Path(folder) / model.name)), "random"
