"""Judges the facts before an installation, one line a check: ok, warn (goes on) or fail (nothing is changed), with what
to do. Pure. What holds for every host of this backend is in flover_backend/host/checks.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from flover_backend.host.checks import (
    ENGINE_PACKAGES,
    FRONT_PACKAGES,
    MIB,
    OLDEST_PYTHON,
    Check,
    check_cuda,
    check_driver,
    check_glibc,
    check_gpus,
    check_libpython,
    check_numpy,
    check_packages,
    check_server,
    check_shared_memory,
    check_stub_python,
)
from flover_backend.host.pythons import version_tuple

from .facts import TORCH, Facts, brings_torch, wants_gpu
from .options import Options

GIB = 1 << 30


def instances_for(options: Options, facts: Facts) -> int:
    """How many fronts suit the host, where nobody says."""
    return options.instances or (4 if wants_gpu(options, facts.gpus) else 1)


def check(options: Options, facts: Facts) -> list[Check]:
    """All checks, in the order in which they are worth reading."""
    return [
        *check_server(facts, options.backend_directory / "python", python_based=options.layout == "backend"),
        check_stub_python(facts, options.python),
        *check_libpython(facts),
        *check_numpy(facts, options.python),
        *check_glibc(facts),
        *_packages(options, facts),
        *_gpu(options, facts),
        check_shared_memory(facts, instances_for(options, facts)),
        *_places(options, facts),
        *_model(options, facts),
    ]


def _packages(options: Options, facts: Facts) -> Iterator[Check]:
    python, engine = facts.python, facts.engine
    if python.error:
        return
    if python.has("pip") is None:
        yield Check("fail", "pip", f"{options.python} has none; apt-get install python3-pip, or python3 -m ensurepip")
    if options.no_deps:
        wanted = FRONT_PACKAGES if engine else {**FRONT_PACKAGES, **ENGINE_PACKAGES}
        yield check_packages(wanted, python, f"{options.python}", "leave --no-deps out, or install them there")
    if engine is not None:
        if engine.error:
            yield Check("fail", "engine's Python", engine.error)
        elif not version_tuple(engine.series) >= OLDEST_PYTHON:
            yield Check(
                "fail", "engine's Python", f"{options.engine_python} is {engine.version}; 3.10 or later is needed"
            )
        else:
            yield check_packages(
                {"torch": ENGINE_PACKAGES["torch"]}, engine, f"{options.engine_python}", f"pip install '{TORCH}'"
            )
        return
    if brings_torch(options, python):
        offer = facts.torch_offer
        if offer is not None and offer.error:
            yield Check(
                "fail", "torch", f"pip finds none: {offer.error}; give --index-url, --torch-index or --engine-python"
            )
        elif offer is not None and not offer.is_for_cpu and not wants_gpu(options, facts.gpus):
            text = (
                f"{offer.version} brings CUDA's libraries, of no use here; --torch-index names an index of CPU builds"
            )
            yield Check("warn", "torch", text)
        elif offer is not None:
            yield Check("ok", "torch", f"none in {options.python}; {offer.version} will be installed")
        return
    if not options.no_deps:
        yield Check("ok", "torch", f"{python.has('torch')} in {options.python}")


def _gpu(options: Options, facts: Facts) -> Iterator[Check]:
    engine = facts.engine or facts.python
    if engine.error:
        return
    wanted = wants_gpu(options, facts.gpus)
    yield from check_gpus(facts.gpus, wanted=wanted)
    offer = facts.torch_offer
    if wanted and offer is not None and (offer.cuda or offer.is_for_cpu):
        yield from check_driver(offer.cuda, facts.python.driver_cuda)
    elif wanted and offer is None:
        yield from check_cuda(engine, facts.python.driver_cuda)


def needed_disk(options: Options, facts: Facts) -> int:
    """Bytes of the packages, roughly; a torch with CUDA brings its libraries."""
    if options.no_deps or not brings_torch(options, facts.python):
        return 300 * MIB
    return 2 * GIB if facts.torch_offer is not None and facts.torch_offer.is_for_cpu else 9 * GIB


def _places(options: Options, facts: Facts) -> Iterator[Check]:
    needed = needed_disk(options, facts)
    level = "fail" if facts.disk_free < needed else "ok"
    text = f"{facts.disk_free // MIB} MiB free for {options.home}, {needed // MIB} needed"
    yield Check(level, "disk", text)
    for path in facts.unwritable:
        yield Check("fail", "write access", f"none to {path}; run as its owner, or with sudo")
    for path in facts.occupied:
        text = f"{path} is there and not made by this script; move it away, or give another --name"
        yield Check("fail", "places", text)
    for path in facts.no_folders:
        yield Check("fail", "places", f"{path} is no folder; give another --model-repository or --server-root")
    if not facts.unwritable and not facts.occupied and not facts.no_folders:
        yield Check("ok", "places", ", ".join(str(path) for path in (options.home, options.model_folder) if path))


def _model(options: Options, facts: Facts) -> Iterator[Check]:
    if options.model is None:
        return
    if (Path(options.model) / "config.json").is_file():
        yield Check("ok", "model", f"{Path(options.model).absolute()}")
    elif Path(options.model).is_dir():
        yield Check("fail", "model", f"{options.model} holds no config.json: a Hugging Face directory is needed")
    elif facts.bundled is None:
        yield Check(
            "warn", "model", f"{options.model} is no directory here; taken for a bundled model of {options.package}"
        )
    elif options.model in facts.bundled:
        yield Check("ok", "model", f"{options.model}, bundled")
    else:
        text = f"{options.model} is no directory; allowed: a Hugging Face directory, or {', '.join(facts.bundled)}"
        yield Check("fail", "model", text)
