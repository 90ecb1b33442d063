"""What deploy/install.py finds out by itself: real stubs, real interpreters, and folders made to be wrong."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from pathlib import Path

import pytest
from installing import run_install
from live_server import SITE_PACKAGES, TRITON
from server_root import RELEASE, TRITON_VERSION, ServerRoot, make_server_root

from flover_backend.host.pythons import ask, version_tuple
from flover_install.facts import Facts, gather
from flover_install.options import options_from, parser

STUB = "triton_python_backend_stub"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> ServerRoot:
    return make_server_root(tmp_path_factory.mktemp("root"), with_package=False)


@pytest.fixture
def own_root(tmp_path: Path) -> ServerRoot:
    return make_server_root(tmp_path, with_package=False)


def facts_of(root: ServerRoot, monkeypatch: pytest.MonkeyPatch, *flags: str) -> Facts:
    for name, value in root.environment().items():
        monkeypatch.setenv(name, value)
    given = parser().parse_args(["--server-root", str(root.root), "--no-deps", *flags])
    return gather(options_from(given), frozenset(), packages_are_there=False)


def test_a_server_root_as_it_should_be(root: ServerRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    found = facts_of(root, monkeypatch)
    release = ".".join(map(str, sys.version_info[:3]))
    assert (found.triton, found.missing_files, found.backend_link_target) == (TRITON_VERSION, (), None)
    assert (found.stub_python, found.python.version, found.python.libpython_release) == (RELEASE, release, release)
    assert found.stub_takes_numpy2 is False  # Triton 24.10
    assert version_tuple(found.needed_glibc) <= version_tuple(found.python.glibc)
    assert found.python.has("torch") and found.python.has("numpy") and found.python.has("pip")
    assert found.shm_free > 0 and found.disk_free > 0
    assert (found.unwritable, found.occupied) == ((), ())
    assert found.bundled is not None and "llama-demo" in found.bundled


def test_a_check_alone_changes_nothing(root: ServerRoot) -> None:
    ran = run_install(root, "--no-deps", "--check")
    assert (ran.status, ran.lines[-1]) == (0, "all checks passed; nothing was changed")
    assert not (root.backends / "flover").exists()


def test_the_stub_of_another_python(own_root: ServerRoot) -> None:
    shutil.copy2(TRITON / "python_backend_stubs" / "3.12" / STUB, own_root.backends / "python" / STUB)
    ran = run_install(own_root, "--no-deps")
    assert ran.status == 1
    assert f"the stub is built for Python 3.12, {own_root.python} is {RELEASE}" in ran.failed()[0]
    assert not (own_root.backends / "flover").exists()


def test_numpy_2_under_a_stub_that_misreads_it(own_root: ServerRoot) -> None:
    site = own_root.venv / "lib" / f"python{RELEASE}" / "site-packages"
    (site / "numpy-2.1.3.dist-info").mkdir()
    (site / "numpy-2.1.3.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 2.1.3\n")
    ran = run_install(own_root, "--no-deps")
    assert ran.status == 1
    assert len(ran.failed()) == 1 and "NumPy: 2.1.3, but this stub" in ran.failed()[0]


def test_a_binary_of_a_pybind11_that_reads_numpy_2_is_told_apart(
    own_root: ServerRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    (newer,) = (SITE_PACKAGES / "contourpy").glob("*.so")  # matplotlib's; works with NumPy 2
    shutil.copyfile(newer, own_root.backends / "python" / STUB)
    assert facts_of(own_root, monkeypatch).stub_takes_numpy2 is True


def test_a_libpython_that_cannot_load_is_found_out(tmp_path: Path) -> None:
    fake = tmp_path / f"libpython{RELEASE}.so.1.0"
    fake.write_text("no ELF")
    release = ask(Path(sys.executable), str(fake)).libpython_release
    assert release is not None and str(fake) in release


def test_a_python_backend_that_links_elsewhere(own_root: ServerRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    library = own_root.backends / "python" / "libtriton_python.so"
    moved = own_root.root / library.name
    library.rename(moved)
    library.symlink_to(moved)
    assert facts_of(own_root, monkeypatch).backend_link_target == str(moved)


def test_a_folder_of_somebody_else_is_in_the_way(own_root: ServerRoot) -> None:
    (own_root.backends / "flover").mkdir()
    (own_root.backends / "flover" / "model.py").write_text("")
    ran = run_install(own_root, "--no-deps")
    assert ran.status == 1
    assert f"{own_root.backends / 'flover'} is there and not made by this script" in ran.failed()[0]


def test_a_model_repository_that_is_a_file(own_root: ServerRoot) -> None:
    file = own_root.root / "TRITON_VERSION"
    ran = run_install(own_root, "--no-deps", "--model-repository", str(file))
    assert ran.status == 1
    assert ran.failed() == [f"fail places: {file} is no folder; give another --model-repository or --server-root"]
    assert not (own_root.backends / "flover").exists()


def test_two_runs_at_once(own_root: ServerRoot) -> None:
    descriptor = os.open(own_root.backends, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    ran = run_install(own_root, "--no-deps", "--check")
    os.close(descriptor)
    assert ran.status == 1 and "another run is at work" in ran.errors


def test_a_python_that_is_none(tmp_path: Path) -> None:
    assert "does not answer" in ask(tmp_path / "python3", "").error


def test_the_cuda_of_a_torch_is_read_without_importing_it(own_root: ServerRoot) -> None:
    site = own_root.venv / "lib" / f"python{RELEASE}" / "site-packages"
    (site / "torch").mkdir()
    (site / "torch" / "__init__.py").write_text("raise SystemExit('imported')")
    (site / "torch" / "version.py").write_text("__version__ = '2.13.0'\ncuda: Optional[str] = '13.0'\n")
    assert ask(own_root.python, "").torch_cuda == "13.0"
