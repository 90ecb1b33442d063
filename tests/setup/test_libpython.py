"""The stub's libpython: this interpreter's own, of the same release, or an error that says what to do."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from flover_backend import libpython


def test_finds_the_library_of_this_interpreter() -> None:
    found = libpython.find_libpython()
    assert found.name == "libpython3.11.so.1.0"
    assert libpython.hex_version(found) == sys.hexversion


def test_another_release_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libpython, "hex_version", lambda library: 0x030B00F0)
    with pytest.raises(libpython.LibpythonError, match=r"is Python 3\.11\.0, but .* must be the same release"):
        libpython.find_libpython()


def test_a_missing_library_names_the_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(libpython, "candidate_folders", lambda: [tmp_path])
    with pytest.raises(libpython.LibpythonError, match=str(tmp_path)):
        libpython.find_libpython()


def test_a_file_that_is_no_library_is_refused(tmp_path: Path) -> None:
    fake = tmp_path / libpython.SONAME
    fake.write_text("not ELF")
    with pytest.raises(libpython.LibpythonError, match="cannot be loaded"):
        libpython.check_release(fake)


@pytest.mark.parametrize(
    ("distribution", "advice"), [(True, "apt-get install libpython3.11"), (False, "--enable-shared")]
)
def test_advice_suits_the_python(monkeypatch: pytest.MonkeyPatch, distribution: bool, advice: str) -> None:
    monkeypatch.setattr(libpython, "is_distribution_python", lambda: distribution)
    monkeypatch.setattr(libpython, "candidate_folders", list)
    with pytest.raises(libpython.LibpythonError, match=advice):
        libpython.find_libpython()


def test_version_text() -> None:
    assert libpython.version_text(0x030B02F0) == "3.11.2"
