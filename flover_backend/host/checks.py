"""Judges the facts of a host, one `Check` each: ok, warn (goes on) or fail, what was found, what to do. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .facts import STUB, HostFacts
from .pythons import PythonFacts, version_tuple

MIB = 1 << 20
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
    """One line of a report."""

    level: str
    """ok, warn or fail."""
    name: str
    found: str
    advice: str = ""
    """What to do; empty with ok."""
    paths: tuple[str, ...] = ()
    """Every file that it is about, where `found` names the first of many."""

    def __str__(self) -> str:
        return f"{self.level:4} {self.name}: {self.found}" + (f"; {self.advice}" if self.advice else "")


def check_server(facts: HostFacts, folder: Path, *, python_based: bool) -> Iterator[Check]:
    """`folder`: the Python backend's. `python_based`: a backend folder `flover` is, or is to be, beside it."""
    version = version_tuple(facts.triton) if facts.triton else ()
    if not version:
        yield Check("warn", "Triton", "version unknown: no TRITON_VERSION in its folder", "23.10 or later is needed")
    elif python_based and version < OLDEST_TRITON:
        text = f"{facts.triton} knows no python-based backends (2.39, 23.10, and later do)"
        yield Check("fail", "Triton", text, "use --layout repository of deploy/install.py")
    else:
        yield Check("ok", "Triton", f"{facts.triton}")
    if facts.missing_files:
        where = f"{folder}" if folder.is_dir() else f"no Triton server is there: {folder}"
        text = f"{where} lacks {', '.join(facts.missing_files)}"
        yield Check("fail", "Python backend", text, "give --server-root or --backend-directory")
    elif facts.backend_link_target and python_based:
        text = f"{folder} links to {facts.backend_link_target}, and Triton refuses a python-based backend then"
        yield Check("fail", "Python backend", text, "copy the file there")
    else:
        yield Check("ok", "Python backend", f"{folder}")


def check_stub_python(facts: HostFacts, path: Path) -> Check:
    """`path`: of the interpreter that is taken for the stub's."""
    python, name = facts.python, "stub's Python"
    if python.error:
        return Check("fail", name, python.error, "give --python")
    if STUB in facts.missing_files:
        return Check("fail", name, "there is no stub, which says what Python it needs", "see Python backend")
    if facts.stub_python is None:
        return Check("fail", name, "the stub names no libpython", "is it Triton's triton_python_backend_stub?")
    if facts.stub_python != python.series:
        text = f"the stub is built for Python {facts.stub_python}, {path} is {python.version}"
        return Check("fail", name, text, f"give --python, or put python{facts.stub_python} first on PATH")
    if not OLDEST_PYTHON <= version_tuple(python.series) <= NEWEST_PYTHON:
        return Check("fail", name, f"{python.version}; this package runs on 3.10 to 3.13", "take another image")
    return Check("ok", name, f"{python.version}, {path}")


def check_libpython(facts: HostFacts) -> Iterator[Check]:
    """The library of the stub, of the very release of its interpreter."""
    python, name = facts.python, "libpython"
    if python.error or facts.stub_python is None:
        return
    own = " or ".join(python.libpython_folders)
    package = f"libpython{python.series}"
    advice = f"apt-get install {package}" if python.is_distribution else f"start the server with LD_LIBRARY_PATH={own}"
    if facts.libpython is None:
        text = f"the loader finds no libpython{facts.stub_python}.so.1.0 for the stub"
        yield Check("fail", name, text, f"{advice}, and run this likewise")
    elif python.libpython_release != python.version:
        text = (
            f"{facts.libpython} is {python.libpython_release}, Python is {python.version}: multiprocessing breaks then"
        )
        yield Check("fail", name, text, f"{advice}, and run this likewise")
    else:
        yield Check("ok", name, f"{python.libpython_release}, {facts.libpython}")


def check_numpy(facts: HostFacts, path: Path) -> Iterator[Check]:
    """`path`: of the stub's interpreter, whose NumPy the stub reads the arrays of."""
    present, name = facts.python.has("numpy"), "NumPy"
    if facts.python.error or STUB in facts.missing_files:
        return
    if present is None:
        text = f"{path} has none, so no Python model of this server can work"
        yield Check("fail", name, text, "pip install 'numpy<2' there")
    elif version_tuple(present) < (2,) or facts.stub_takes_numpy2:
        read = "1 and 2" if facts.stub_takes_numpy2 else "1"
        yield Check("ok", name, f"{present}; the stub reads arrays of NumPy {read}")
    else:
        text = f"{present}, but this stub reads arrays of NumPy 1 alone: strings kill it, numbers come out wrong"
        yield Check("fail", name, text, f"pip install 'numpy<2' for {path}")


def check_glibc(facts: HostFacts) -> Iterator[Check]:
    """What torch's wheels and the stub were linked with."""
    if facts.python.error:
        return
    needed = max(OLDEST_GLIBC, version_tuple(facts.needed_glibc or "0"))
    text = ".".join(map(str, needed))
    if not facts.python.glibc:
        found = f"this system has none; wheels of torch and the stub need {text}"
        yield Check("fail", "glibc", found, "take a glibc image")
    elif version_tuple(facts.python.glibc) < needed:
        found = f"{facts.python.glibc}; torch and the stub need {text}"
        yield Check("fail", "glibc", found, "take a newer image")
    else:
        yield Check("ok", "glibc", f"{facts.python.glibc}, needed {text}")


def check_packages(wanted: dict[str, tuple[int, ...]], python: PythonFacts, path: str, advice: str) -> Check:
    """Whether an interpreter has these packages, at least of these releases."""
    found = {name: python.has(name) for name in wanted}
    lost = [
        f"{name}>={'.'.join(map(str, oldest))} ({found[name] or 'none'})"
        for name, oldest in wanted.items()
        if version_tuple(found[name] or "0") < oldest
    ]
    if lost:
        return Check("fail", "packages", f"{path} lacks {', '.join(lost)}", advice)
    return Check("ok", "packages", f"{', '.join(f'{name} {version}' for name, version in found.items())} in {path}")


def check_gpus(gpus: tuple[str, ...], *, wanted: bool) -> Iterator[Check]:
    """`wanted`: whether the engine will compute on one."""
    if not wanted:
        yield Check("ok", "GPU", "none; the engine computes on the CPU" if not gpus else "not used: device is cpu")
        return
    if not gpus:
        yield Check("warn", "GPU", "none here", "--device gpu says that the server will have one")
        return
    yield Check("ok", "GPU", "; ".join(gpus))
    old = [gpu for gpu in gpus if "," in gpu and version_tuple(gpu.split(",")[-1]) < OLDEST_COMPUTE]
    if old:
        yield Check("fail", "GPU", f"{old[0]}: compute capability 8.0 or later is needed", "use --device cpu")


def check_cuda(engine: PythonFacts, driver: str | None) -> Iterator[Check]:
    """Whether the torch that is there is one for a GPU, and for its driver."""
    if engine.has("torch") is not None:
        yield from check_driver(engine.torch_cuda, driver)


def check_driver(cuda: str | None, driver: str | None) -> Iterator[Check]:
    """A driver runs all of CUDA's minor releases of its major one."""
    if cuda is None:
        yield Check("fail", "CUDA", "torch is a CPU build", "for the GPU install a CUDA build, or use --device cpu")
    elif driver is None:
        yield Check("warn", "CUDA", f"torch is built for {cuda}; no driver here to compare with")
    elif version_tuple(driver)[0] < version_tuple(cuda)[0]:
        index = f"https://download.pytorch.org/whl/cu{version_tuple(driver)[0]}X"
        text = f"torch is built for {cuda}, the driver runs up to {driver}"
        yield Check("fail", "CUDA", text, f"a newer driver, or --torch-index of a build for it ({index})")
    else:
        yield Check("ok", "CUDA", f"torch is built for {cuda}, the driver runs up to {driver}")


def check_shared_memory(facts: HostFacts, fronts: int, per_front: int = SHM_PER_FRONT) -> Check:
    """`per_front`: bytes that Triton takes for a stub."""
    needed = fronts * per_front
    has = f"/dev/shm has {facts.shm_free // MIB} of {facts.shm_total // MIB} MiB free"
    text = f"{has}; {fronts} front{'s take' if fronts != 1 else ' takes'} {needed // MIB}"
    advice = "start the container with --shm-size=1g"
    if facts.shm_free < needed:
        return Check("fail", "shared memory", text, f"{advice}, or lower --instances")
    if facts.shm_total <= SHM_COMFORT:
        return Check("warn", "shared memory", f"{text}; other Python models share it", advice)
    return Check("ok", "shared memory", text)
