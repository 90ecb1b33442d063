"""Each check of deploy/install.py on facts that are made up: what it says, and that a failed one changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from installing import snapshot
from live_server import ROOT

from flover_backend.host.checks import Check
from flover_backend.host.pythons import PythonFacts
from flover_install import command
from flover_install.checks import check, instances_for
from flover_install.facts import TESTED_TORCH, Facts, TorchOffer, cuda_of
from flover_install.options import Options, options_from, parser

PACKAGES = {"numpy": "1.26.4", "msgspec": "0.22.0", "tokenizers": "0.23.3", "pip": "24.0", "torch": None}
PYTHON = PythonFacts(
    version="3.10.12",
    is_distribution=True,
    packages=PACKAGES,
    glibc="2.35",
    libpython_release="3.10.12",
    libpython_folders=("/usr/lib",),
)
WITH_TORCH = replace(PYTHON, packages=PACKAGES | {"torch": "2.13.0", "safetensors": "0.8.0"}, torch_cuda="13.0")
GOOD = Facts(
    triton="2.51.0",
    missing_files=(),
    backend_link_target=None,
    stub_python="3.10",
    libpython="/lib/x86_64-linux-gnu/libpython3.10.so.1.0",
    stub_takes_numpy2=False,
    needed_glibc="2.34",
    python=PYTHON,
    engine=None,
    gpus=(),
    shm_total=1 << 30,
    shm_free=1 << 30,
    disk_free=100 << 30,
    unwritable=(),
    occupied=(),
    no_folders=(),
    bundled=("gptj-demo", "llama-demo"),
    torch_offer=TorchOffer("2.13.0+cpu"),
)
H200 = ("NVIDIA H200, 9.0",)


def options(*flags: str) -> Options:
    return options_from(parser().parse_args(["--python", "/usr/bin/python3", *flags]))


def python(**changes: Any) -> Callable[[Facts], Facts]:
    return lambda facts: replace(facts, python=replace(facts.python, **changes))


def packages(**versions: str | None) -> Callable[[Facts], Facts]:
    return lambda facts: replace(facts, python=replace(facts.python, packages=facts.python.packages | versions))


def facts(**changes: Any) -> Callable[[Facts], Facts]:
    return lambda found: replace(found, **changes)


def lines(results: list[Check], level: str) -> list[str]:
    return [str(result) for result in results if result.level == level]


def test_a_good_host_passes_every_check_with_its_numbers() -> None:
    results = check(options("--model", "llama-demo"), GOOD)
    assert lines(results, "fail") == lines(results, "warn") == []
    text = "\n".join(map(str, results))
    for part in ("Triton: 2.51.0", "3.10.12", "NumPy: 1.26.4", "glibc: 2.35, needed 2.34", "2.13.0+cpu will be"):
        assert part in text


FAULTS = {
    "old Triton": ((), facts(triton="2.38.0"), "Triton: 2.38.0 knows no python-based backends", "--layout repository"),
    "no stub": ((), facts(missing_files=("triton_python_backend_stub",)), "lacks triton_python", "--backend-directory"),
    "a linked library": ((), facts(backend_link_target="/x/y.so"), "links to /x/y.so", "copy the file there"),
    "another Python": ((), facts(stub_python="3.12"), "the stub is built for Python 3.12", "--python"),
    "no libpython in the stub": ((), facts(stub_python=None), "names no libpython", "triton_python_backend_stub"),
    "a Python too old": (
        (),
        lambda found: replace(found, stub_python="3.8", python=replace(PYTHON, version="3.8.18")),
        "3.8.18; this package runs on 3.10 to 3.13",
        "another image",
    ),
    "a Python that does not answer": (
        (),
        python(error="/x does not answer: why"),
        "/x does not answer",
        "give --python",
    ),
    "no libpython": ((), facts(libpython=None), "finds no libpython3.10.so.1.0", "apt-get install libpython3.10"),
    "no libpython, of a Python from elsewhere": (
        (),
        lambda found: replace(found, libpython=None, python=replace(PYTHON, is_distribution=False)),
        "finds no libpython3.10.so.1.0",
        "LD_LIBRARY_PATH=/usr/lib",
    ),
    "libpython of another release": ((), python(libpython_release="3.10.4"), "is 3.10.4, Python is 3.10.12", "apt-get"),
    "NumPy 2": ((), packages(numpy="2.1.3"), "NumPy: 2.1.3, but this stub reads", "pip install 'numpy<2'"),
    "no NumPy": ((), packages(numpy=None), "NumPy: /usr/bin/python3 has none", "pip install"),
    "an old glibc": ((), python(glibc="2.27"), "glibc: 2.27; torch and the stub need 2.34", "newer image"),
    "no glibc": ((), python(glibc=""), "glibc: this system has none", "glibc image"),
    "no pip": ((), packages(pip=None), "pip: /usr/bin/python3 has none", "apt-get install python3-pip"),
    "no torch to be had": (
        (),
        facts(torch_offer=TorchOffer(error="no index")),
        "pip finds none: no index",
        "--index-url",
    ),
    "no torch, no dependencies": (("--no-deps",), facts(torch_offer=None), "lacks torch>=2.11 (none)", "--no-deps"),
    "an engine's Python without torch": (
        ("--engine-python", "/opt/python"),
        facts(engine=PYTHON, torch_offer=None),
        "/opt/python lacks torch>=2.11 (none)",
        "pip install 'torch>=2.11'",
    ),
    "an engine's Python that is old": (
        ("--engine-python", "/opt/python"),
        facts(engine=replace(WITH_TORCH, version="3.9.2"), torch_offer=None),
        "is 3.9.2; 3.10 or later",
        "needed",
    ),
    "a CPU build beside a GPU": (
        (),
        facts(gpus=H200, python=replace(WITH_TORCH, torch_cuda=None), torch_offer=None),
        "is a CPU build",
        "--device cpu",
    ),
    "an old driver": (
        (),
        facts(gpus=H200, python=replace(WITH_TORCH, driver_cuda="12.4"), torch_offer=None),
        "torch is built for 13.0, the driver runs up to 12.4",
        "--torch-index",
    ),
    "a torch to install that is too new for the driver": (
        (),
        facts(gpus=H200, python=replace(PYTHON, driver_cuda="12.6"), torch_offer=TorchOffer("2.14.1", cuda="13")),
        "torch is built for 13, the driver runs up to 12.6",
        "https://download.pytorch.org/whl/cu12X",
    ),
    "an old GPU": ((), facts(gpus=("Tesla T4, 7.5",)), "Tesla T4, 7.5: compute capability 8.0", "--device cpu"),
    "little shared memory": (
        ("--instances", "40"),
        facts(shm_free=64 << 20, shm_total=64 << 20),
        "/dev/shm has 64 of 64 MiB free; 40 fronts take 80",
        "--shm-size=1g",
    ),
    "a full disk": ((), facts(disk_free=1 << 30), "1024 MiB free", "2048 needed"),
    "no write access": ((), facts(unwritable=("/opt",)), "write access: none to /opt", "sudo"),
    "something in the way": ((), facts(occupied=("/m/flover",)), "/m/flover is there and not made", "--name"),
    "a file for a folder": ((), facts(no_folders=("/m",)), "/m is no folder", "--model-repository"),
    "no such model": (("--model", "/no/such"), facts(), "/no/such is no directory", "gptj-demo, llama-demo"),
}


@pytest.mark.parametrize(("flags", "change", "said", "advice"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_named_with_what_to_do_and_nothing_is_changed(
    flags: tuple[str, ...],
    change: Callable[[Facts], Facts],
    said: str,
    advice: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "backends").mkdir()
    before = snapshot(tmp_path)
    monkeypatch.setattr(command, "gather", lambda *given, **more: change(GOOD))
    places = ("--server-root", str(tmp_path), "--model-repository", str(tmp_path / "models"))
    assert command.main(["--python", "/usr/bin/python3", *places, *flags]) == 1
    told = capsys.readouterr()
    (failed,) = [line for line in told.out.splitlines() if line.startswith("fail ") and said in line]
    assert advice in failed
    assert "nothing was changed" in told.err
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (facts(triton=None), "Triton: version unknown"),
        (facts(torch_offer=TorchOffer("2.14.1")), "2.14.1 brings CUDA's libraries"),
        (facts(shm_total=64 << 20, shm_free=60 << 20), "--shm-size=1g"),
    ],
)
def test_a_warning_goes_on(change: Callable[[Facts], Facts], said: str) -> None:
    results = check(options(), change(GOOD))
    assert lines(results, "fail") == []
    assert [line for line in lines(results, "warn") if said in line]


def test_a_gpu_that_the_server_will_have_is_taken_at_its_word() -> None:
    results = check(options("--device", "gpu"), replace(GOOD, torch_offer=TorchOffer("2.14.1", cuda="13")))
    assert lines(results, "fail") == []
    assert [line for line in lines(results, "warn") if "none here" in line]


def test_a_stub_that_reads_numpy_2_takes_either() -> None:
    newer = packages(numpy="2.1.3")(replace(GOOD, stub_takes_numpy2=True))
    assert lines(check(options(), newer), "fail") == []


def test_the_tested_torch_is_the_pinned_one() -> None:
    assert f"torch=={TESTED_TORCH} " in (ROOT / "constraints.txt").read_text()


@pytest.mark.parametrize(
    ("version", "requirements", "cuda"),
    [
        ("2.13.0+cu126", [], "12.6"),
        ("2.13.0+cu130", ["nvidia-nccl-cu13==2.28"], "13.0"),
        ("2.14.1", ["filelock", "cuda-toolkit[cublas,cudart]==13.0.2; platform_system == 'Linux'"], "13"),
        ("2.11.0", ["nvidia-cublas-cu12==12.8.4.1; platform_system == 'Linux'"], "12"),
        ("2.13.0+cpu", ["filelock", "sympy"], None),
    ],
)
def test_the_cuda_of_a_torch_to_install(version: str, requirements: list[str], cuda: str | None) -> None:
    assert cuda_of(version, requirements) == cuda


def test_fronts_suit_the_host() -> None:
    assert instances_for(options(), GOOD) == 1
    assert instances_for(options(), replace(GOOD, gpus=H200)) == 4
    assert instances_for(options("--device", "gpu"), GOOD) == 4
    assert instances_for(options("--device", "cpu"), replace(GOOD, gpus=H200)) == 1
    assert instances_for(options("--instances", "3"), GOOD) == 3


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--instances", "0"], "--instances: got 0"),
        (["--name", "a/b"], "--name: got 'a/b'"),
        (["--layout", "repository"], "give --model-repository"),
        (["--check", "--remove"], "not allowed with"),
        (["--frobnicate"], "unrecognized arguments"),
    ],
)
def test_flags_that_make_no_sense(flags: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(flags)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
