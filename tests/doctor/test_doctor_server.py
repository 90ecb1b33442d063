"""A server root with one thing wrong at a time, and interpreters that lack what they need."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from live_server import ROOT, SITE_PACKAGES, TRITON
from repositories import SHIPPED, at_level, make_repository, only_model

from flover_backend import server_files
from flover_backend.doctor.command import examine
from flover_backend.doctor.engines import Engines
from flover_backend.doctor.options import DoctorOptions
from flover_backend.doctor.report import Sections
from flover_backend.doctor.server import check_device, check_server_parts, find_server, look_at
from flover_backend.errors import ConfigError
from flover_backend.host.checks import Check
from flover_backend.host.pythons import PythonFacts

sys.path.insert(0, str(ROOT / "tests" / "deploy"))

from server_root import RELEASE, ServerRoot, make_server_root, make_venv

STUB = "triton_python_backend_stub"


@pytest.fixture(scope="module")
def shared_root(tmp_path_factory: pytest.TempPathFactory) -> ServerRoot:
    return make_server_root(tmp_path_factory.mktemp("root"), with_package=True)


@pytest.fixture
def root(tmp_path: Path, shared_root: ServerRoot, monkeypatch: pytest.MonkeyPatch) -> ServerRoot:
    """One's own to spoil, in the environment that the server would be started with."""
    own = ServerRoot(tmp_path / "root", tmp_path / "venv")
    shutil.copytree(shared_root.root, own.root, symlinks=True)
    make_venv(own.venv, [ROOT, SITE_PACKAGES])
    monkeypatch.setenv("LD_LIBRARY_PATH", own.environment()["LD_LIBRARY_PATH"])
    return own


def options(root: ServerRoot, python: Path | None = None) -> DoctorOptions:
    return DoctorOptions(server_root=root.root, python=python or root.python, ports=(0, 0, 0))


def checks_of(root: ServerRoot, python: Path | None = None) -> list[Check]:
    server = find_server(options(root, python))
    return check_server_parts(server, look_at(server))


def fault(checks: list[Check]) -> str:
    (line,) = at_level(checks, "fail")
    return line


def everything(sections: Sections) -> list[Check]:
    return [check for _, checks in sections for check in checks]


def test_a_server_root_as_it_should_be(root: ServerRoot) -> None:
    checks = checks_of(root)
    assert [check.level for check in checks] == ["ok"] * 7
    assert str(root.python) in str(checks[2])


def test_without_flags_it_is_the_server_of_the_wheel() -> None:
    if Path("/opt/tritonserver").is_dir():
        pytest.skip("this is an image of NVIDIA's")
    server = find_server(DoctorOptions())
    assert server.files.triton == "2.51.0"
    assert [check.level for check in check_server_parts(server, look_at(server))] == ["ok"] * 7


def test_no_server_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    if Path("/opt/tritonserver").is_dir():
        pytest.skip("this is an image of NVIDIA's")
    monkeypatch.setattr(server_files.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="no server: /opt/tritonserver is not there, and nvidia-pytriton is not inst"):
        find_server(DoctorOptions())


def test_no_stub(root: ServerRoot) -> None:
    (root.backends / "python" / STUB).unlink()
    backend, python = at_level(checks_of(root), "fail")
    assert f"lacks {STUB}" in backend and "--server-root" in backend
    assert "there is no stub" in python


def test_an_empty_server_root(tmp_path: Path) -> None:
    server = find_server(DoctorOptions(server_root=tmp_path))
    faults = at_level(check_server_parts(server, look_at(server)), "fail")
    assert f"no Triton server is there: {tmp_path / 'backends' / 'python'} lacks libtriton_python.so" in faults[0]
    assert "there is no stub" in faults[1]
    assert not any("NumPy" in fault or "libpython" in fault for fault in faults)


def test_the_stub_of_another_python(root: ServerRoot) -> None:
    shutil.copy2(TRITON / "python_backend_stubs" / "3.12" / STUB, root.backends / "python" / STUB)
    line = at_level(checks_of(root), "fail")[0]
    assert "the stub is built for Python 3.12" in line and "--python" in line


def test_a_python_that_is_none(root: ServerRoot) -> None:
    line = fault(checks_of(root, root.root / "python3"))
    assert "does not answer" in line and "give --python" in line


@pytest.mark.parametrize(("path", "said"), [("/bin/false", "exit status 1"), ("/bin/true", "exit status 0")])
def test_a_program_that_is_no_python(root: ServerRoot, path: str, said: str) -> None:
    line = fault(checks_of(root, Path(path)))
    assert f"{path} is no Python that works: {said}, it says nothing" in line and "give --python" in line


def test_numpy_2_under_a_stub_that_misreads_it(root: ServerRoot) -> None:
    site = root.venv / "lib" / f"python{RELEASE}" / "site-packages"
    (site / "numpy-2.1.3.dist-info").mkdir()
    (site / "numpy-2.1.3.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 2.1.3\n")
    line = fault(checks_of(root))
    assert "NumPy: 2.1.3, but this stub" in line and "pip install 'numpy<2'" in line


def test_no_libpython_for_the_stub(root: ServerRoot) -> None:
    stub = root.backends / "python" / STUB
    name = f"libpython{RELEASE}.so.1.0".encode()
    assert name in stub.read_bytes()
    stub.write_bytes(stub.read_bytes().replace(name, name.replace(b"1.0", b"9.9")))
    line = fault(checks_of(root))
    assert "the loader finds no libpython" in line and ("LD_LIBRARY_PATH=" in line or "apt-get install" in line)


def test_an_interpreter_without_packages(root: ServerRoot, tmp_path: Path) -> None:
    bare = make_venv(tmp_path / "bare", []) / "bin" / "python3"
    numpy, packages = at_level(checks_of(root, bare), "fail")
    assert f"NumPy: {bare} has none" in numpy
    assert "lacks numpy>=1.26 (none), msgspec" in packages and "docs/deploy.md" in packages
    line = fault(Engines(find_server(options(root, bare)), []).checks)
    assert f"engine's Python: {bare}: " in line and "No module named" in line


def test_an_engine_python_without_torch(tmp_path: Path) -> None:
    """It has what the package's base needs, and no torch."""
    base = tmp_path / "base"
    base.mkdir()
    for package in ("msgspec", "numpy", "numpy.libs", "tokenizers"):
        if (SITE_PACKAGES / package).exists():
            (base / package).symlink_to(SITE_PACKAGES / package)
    python = make_venv(tmp_path / "venv", [base]) / "bin" / "python3"
    model = only_model(make_repository(tmp_path, {"engine_python": str(python)}))
    line = fault(Engines(find_server(DoctorOptions()), model.versions).checks)
    assert f"engine's Python: {python}: " in line and "No module named" in line and "set engine_python" in line


def test_an_engine_python_that_does_not_run(tmp_path: Path) -> None:
    python = tmp_path / "python3"
    python.write_text("no program")
    python.chmod(0o755)
    model = only_model(make_repository(tmp_path, {"engine_python": str(python)}))
    engines = Engines(find_server(DoctorOptions()), model.versions)
    assert f"{python} does not run" in fault(engines.checks)
    assert engines.checks_of(model) == []


@pytest.mark.slow
def test_an_engine_python_that_has_torch(tmp_path: Path) -> None:
    python = make_venv(tmp_path / "venv", [SITE_PACKAGES]) / "bin" / "python3"
    model = only_model(make_repository(tmp_path, {"engine_python": str(python)}))
    engines = Engines(find_server(DoctorOptions()), model.versions)
    assert at_level([*engines.checks, *engines.checks_of(model)], "fail") == []
    assert any(check.name == "torch" and check.found.endswith(str(python)) for check in engines.checks)
    assert [check.name for check in engines.checks_of(model)] == ["model", "memory"]


@pytest.mark.slow
def test_the_backend_folder_of_an_installation(root: ServerRoot, tmp_path: Path) -> None:
    """The fronts' and the engine's packages are beside the backend, and the stub's own Python has none of them."""
    bare = make_venv(tmp_path / "bare", [])
    site = bare / "lib" / f"python{RELEASE}" / "site-packages"
    for path in SITE_PACKAGES.glob("numpy*"):
        (site / path.name).symlink_to(path)
    folder = root.backends / "flover"
    shutil.copytree(ROOT / "deploy" / "flover", folder)
    packages = folder / "site-packages"
    packages.mkdir()
    for path in [*SITE_PACKAGES.iterdir(), ROOT / "flover_backend"]:
        if not path.name.startswith("__") and path.suffix != ".pth":
            (packages / path.name).symlink_to(path)
    command = [
        *(sys.executable, "-m", "flover_backend.cli", "doctor", "--json", "--server-root", str(root.root)),
        *("--python", str(bare / "bin" / "python3")),
        *("--repository", str(make_repository(tmp_path, config='backend: "flover"\n'))),
    ]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=300)
    told = json.loads(answer.stdout)
    assert (answer.returncode, told["failed"]) == (0, 0), answer
    found = {check["check"]: check["found"] for check in told["checks"]}
    assert found["packages"].endswith(str(packages))
    assert found["torch"].endswith(str(bare / "bin" / "python3"))


@pytest.mark.parametrize(
    ("torch_cuda", "driver", "level", "said"),
    [
        (None, "13.0", "fail", "torch is a CPU build; for the GPU install a CUDA build"),
        ("13.0", "12.4", "fail", "torch is built for 13.0, the driver runs up to 12.4; a newer driver"),
        ("13.0", "13.1", "ok", "torch is built for 13.0, the driver runs up to 13.1"),
    ],
)
def test_a_torch_and_its_driver(root: ServerRoot, torch_cuda: str | None, driver: str, level: str, said: str) -> None:
    host = look_at(find_server(options(root)))
    vars(host.python)["driver_cuda"] = driver
    engine = PythonFacts(version="3.11.2", packages={"torch": "2.13.0"}, torch_cuda=torch_cuda)
    assert any(said in line for line in at_level(check_device(host, engine, wanted=True), level))


def test_everything_that_is_wrong_is_in_one_report(root: ServerRoot, tmp_path: Path) -> None:
    (root.backends / "python" / "libtriton_python.so").unlink()
    fronts = os.statvfs("/dev/shm").f_bavail * os.statvfs("/dev/shm").f_frsize // (2 << 20) + 1000
    repository = make_repository(tmp_path, {"max_row": 1})
    sections = examine(
        DoctorOptions(
            repository=repository, model="llama-demo", instances=fronts, server_root=root.root, python=root.python,
            ports=(0, 0, 0), url="127.0.0.1:1",
        )
    )  # fmt: skip
    assert [name for name, _ in sections] == ["server", "machine", "model flover", "model llama-demo", "running server"]
    faults = at_level(everything(sections), "fail")
    for said in ("lacks libtriton_python.so", "unknown field `max_row`", "--shm-size=1g", "does not answer"):
        assert any(said in line for line in faults), said
    assert any(
        f"cores: {len(os.sched_getaffinity(0))} to use" in line for line in at_level(everything(sections), "warn")
    )


@pytest.mark.slow
def test_a_repository_that_is_none_is_a_fault() -> None:
    sections = examine(DoctorOptions(repository=SHIPPED / "no-such", ports=(0, 0, 0)))
    assert "is no directory" in fault(everything(sections))
