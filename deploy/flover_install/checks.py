"""Judges the facts, one line a check: ok, warn (goes on) or fail (nothing is changed), with what to do. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .facts import TORCH, Facts, PythonFacts, brings_torch, version_tuple, wants_gpu
from .options import Options

MIB, GIB = 1 << 20, 1 << 30
SHM_PER_FRONT = 2 * MIB
"""Triton gives a stub 1 MiB and grows it in steps of 1 MiB."""
SHM_COMFORT = 64 * MIB
OLDEST_PYTHON, NEWEST_PYTHON = (3, 10), (3, 13)
OLDEST_TRITON = (2, 39)
OLDEST_GLIBC = (2, 28)
OLDEST_COMPUTE = (8, 0)
FRONT_PACKAGES: dict[str, tuple[int, ...]] = {"numpy": (1, 26), "msgspec": (0, 19), "tokenizers": (0, 20)}
ENGINE_PACKAGES: dict[str, tuple[int, ...]] = {"torch": (2, 11), "safetensors": (0, 5)}


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    level: str
    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.level:4} {self.name}: {self.text}"


def instances_for(options: Options, facts: Facts) -> int:
    """How many fronts suit the host, where nobody says."""
    return options.instances or (4 if wants_gpu(options, facts.gpus) else 1)


def check(options: Options, facts: Facts) -> list[Check]:
    """All checks, in the order in which they are worth reading."""
    return [
        *_server(options, facts),
        *_python(options, facts),
        *_libpython(facts),
        *_numpy(options, facts),
        *_glibc(facts),
        *_packages(options, facts),
        *_gpu(options, facts),
        *_shared_memory(options, facts),
        *_places(options, facts),
        *_model(options, facts),
    ]


def _server(options: Options, facts: Facts) -> Iterator[Check]:
    found = version_tuple(facts.triton) if facts.triton else ()
    if not found:
        yield Check(
            "warn", "Triton", f"version unknown: no TRITON_VERSION in {options.server_root}; 23.10 or later needed"
        )
    elif options.layout == "backend" and found < OLDEST_TRITON:
        text = f"{facts.triton} knows no python-based backends (2.39, 23.10, and later do); use --layout repository"
        yield Check("fail", "Triton", text)
    else:
        yield Check("ok", "Triton", f"{facts.triton}")
    folder = options.backend_directory / "python"
    if facts.missing_files:
        text = f"{folder} lacks {', '.join(facts.missing_files)}; give --server-root or --backend-directory"
        yield Check("fail", "Python backend", text)
    elif facts.backend_link_target and options.layout == "backend":
        text = (
            f"{folder} links to {facts.backend_link_target}; "
            "Triton refuses a python-based backend then: copy the file there"
        )
        yield Check("fail", "Python backend", text)
    else:
        yield Check("ok", "Python backend", f"{folder}")


def _python(options: Options, facts: Facts) -> Iterator[Check]:
    python = facts.python
    if python.error:
        yield Check("fail", "stub's Python", f"{python.error}; give --python")
    elif facts.stub_python is None:
        yield Check("fail", "stub's Python", "the stub names no libpython; is it Triton's triton_python_backend_stub?")
    elif facts.stub_python != python.series:
        text = f"the stub is built for Python {facts.stub_python}, {options.python} is {python.version}"
        yield Check("fail", "stub's Python", f"{text}; give --python, or put python{facts.stub_python} first on PATH")
    elif not OLDEST_PYTHON <= version_tuple(python.series) <= NEWEST_PYTHON:
        yield Check("fail", "stub's Python", f"{python.version}; this package runs on 3.10 to 3.13: take another image")
    else:
        yield Check("ok", "stub's Python", f"{python.version}, {options.python}")


def _libpython(facts: Facts) -> Iterator[Check]:
    python, name = facts.python, "libpython"
    if python.error or facts.stub_python is None:
        return
    own = " or ".join(python.libpython_folders)
    package = f"libpython{python.series}"
    advice = f"apt-get install {package}" if python.is_distribution else f"start the server with LD_LIBRARY_PATH={own}"
    if facts.libpython is None:
        text = f"the loader finds no libpython{facts.stub_python}.so.1.0 for the stub; {advice}, and run this likewise"
        yield Check("fail", name, text)
    elif python.libpython_release != python.version:
        text = (
            f"{facts.libpython} is {python.libpython_release}, Python is {python.version}: multiprocessing breaks then"
        )
        yield Check("fail", name, f"{text}; {advice}, and run this likewise")
    else:
        yield Check("ok", name, f"{python.libpython_release}, {facts.libpython}")


def _numpy(options: Options, facts: Facts) -> Iterator[Check]:
    present = facts.python.has("numpy")
    if facts.python.error:
        return
    if present is None:
        text = f"{options.python} has none, so no Python model of this server can work; pip install 'numpy<2' there"
        yield Check("fail", "NumPy", text)
    elif version_tuple(present) < (2,) or facts.stub_takes_numpy2:
        yield Check(
            "ok", "NumPy", f"{present}; the stub reads arrays of NumPy {'1 and 2' if facts.stub_takes_numpy2 else '1'}"
        )
    else:
        text = f"{present}, but this stub reads arrays of NumPy 1 alone: strings kill it, numbers come out wrong"
        yield Check("fail", "NumPy", f"{text}; pip install 'numpy<2' for {options.python}")


def _glibc(facts: Facts) -> Iterator[Check]:
    if facts.python.error:
        return
    needed = max(OLDEST_GLIBC, version_tuple(facts.needed_glibc or "0"))
    text = ".".join(map(str, needed))
    if not facts.python.glibc:
        yield Check(
            "fail", "glibc", f"this system has none; wheels of torch and the stub need {text}: take a glibc image"
        )
    elif version_tuple(facts.python.glibc) < needed:
        yield Check("fail", "glibc", f"{facts.python.glibc}; torch and the stub need {text}: take a newer image")
    else:
        yield Check("ok", "glibc", f"{facts.python.glibc}, needed {text}")


def _packages(options: Options, facts: Facts) -> Iterator[Check]:
    python, engine = facts.python, facts.engine
    if python.error:
        return
    if python.has("pip") is None:
        yield Check("fail", "pip", f"{options.python} has none; apt-get install python3-pip, or python3 -m ensurepip")
    if options.no_deps:
        wanted = FRONT_PACKAGES if engine else {**FRONT_PACKAGES, **ENGINE_PACKAGES}
        yield _present(wanted, python, f"{options.python}", "leave --no-deps out, or install them there")
    if engine is not None:
        if engine.error:
            yield Check("fail", "engine's Python", engine.error)
        elif not version_tuple(engine.series) >= OLDEST_PYTHON:
            yield Check(
                "fail", "engine's Python", f"{options.engine_python} is {engine.version}; 3.10 or later is needed"
            )
        else:
            yield _present(
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


def _present(wanted: dict[str, tuple[int, ...]], python: PythonFacts, path: str, advice: str) -> Check:
    found = {name: python.has(name) for name in wanted}
    lost = [
        f"{name}>={'.'.join(map(str, oldest))} ({found[name] or 'none'})"
        for name, oldest in wanted.items()
        if version_tuple(found[name] or "0") < oldest
    ]
    if lost:
        return Check("fail", "packages", f"{path} lacks {', '.join(lost)}; {advice}")
    return Check("ok", "packages", f"{', '.join(f'{name} {version}' for name, version in found.items())} in {path}")


def _gpu(options: Options, facts: Facts) -> Iterator[Check]:
    engine = facts.engine or facts.python
    if engine.error:
        return
    if not wants_gpu(options, facts.gpus):
        yield Check("ok", "GPU", "none; the engine computes on the CPU")
        return
    if not facts.gpus:
        yield Check("warn", "GPU", "none here; --device gpu says that the server will have one")
    else:
        yield Check("ok", "GPU", "; ".join(facts.gpus))
        old = [gpu for gpu in facts.gpus if "," in gpu and version_tuple(gpu.split(",")[-1]) < OLDEST_COMPUTE]
        if old:
            yield Check("fail", "GPU", f"{old[0]}: compute capability 8.0 or later is needed; use --device cpu")
    offer = facts.torch_offer
    if offer is not None and (offer.cuda or offer.is_for_cpu):
        yield from _driver_fits(offer.cuda, facts.python.driver_cuda)
    elif offer is None:
        yield from check_cuda(engine, facts.python.driver_cuda)


def check_cuda(engine: PythonFacts, driver: str | None) -> Iterator[Check]:
    """Whether the torch that is there is one for a GPU, and for its driver."""
    if engine.has("torch") is not None:
        yield from _driver_fits(engine.torch_cuda, driver)


def _driver_fits(cuda: str | None, driver: str | None) -> Iterator[Check]:
    """A driver runs all of CUDA's minor releases of its major one."""
    if cuda is None:
        yield Check("fail", "CUDA", "torch is a CPU build; for the GPU install a CUDA build, or use --device cpu")
    elif driver is None:
        yield Check("warn", "CUDA", f"torch is built for {cuda}; no driver here to compare with")
    elif version_tuple(driver)[0] < version_tuple(cuda)[0]:
        index = f"https://download.pytorch.org/whl/cu{version_tuple(driver)[0]}X"
        text = f"torch is built for {cuda}, the driver runs up to {driver}"
        yield Check("fail", "CUDA", f"{text}; a newer driver, or --torch-index of a build for it ({index})")
    else:
        yield Check("ok", "CUDA", f"torch is built for {cuda}, the driver runs up to {driver}")


def _shared_memory(options: Options, facts: Facts) -> Iterator[Check]:
    fronts = instances_for(options, facts)
    needed = fronts * SHM_PER_FRONT
    has = f"/dev/shm has {facts.shm_free // MIB} of {facts.shm_total // MIB} MiB free"
    text = f"{has}; {fronts} fronts take {needed // MIB}"
    advice = "start the container with --shm-size=1g"
    if facts.shm_free < needed:
        yield Check("fail", "shared memory", f"{text}; {advice}, or lower --instances")
    elif facts.shm_total <= SHM_COMFORT:
        yield Check("warn", "shared memory", f"{text}; other Python models share it: {advice}")
    else:
        yield Check("ok", "shared memory", text)


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
