"""The King James Bible out of Debian's `bible-kjv-text`: found, fetched, unpacked, cached. Knows no model.

The package holds one file, `bible.data`: a header, then windows of 64 KiB of text, each compressed by `compress`'s
LZW without its three bytes of header (format EC02 of the Bible Retrieval System). `gzip` reads LZW.

    python -m training.corpus            prints the path of the plain text, fetching it if need be
"""

from __future__ import annotations

import itertools
import re
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flover_backend.cache import ENV, cache_dir

PACKAGE = "bible-kjv-text"
INSTALLED = Path("/usr/lib/bible.data")
LZW_HEADER = b"\x1f\x9d\x90"
VERSE = re.compile(r"^(\d?[A-Z]+[a-z]*)(\d+):(\d+) (.*)$")


class CorpusMissing(RuntimeError):
    """The text could not be obtained; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Chapter:
    """One chapter: the book's abbreviation as the package writes it, the chapter's number, its verses in order."""

    book: str
    number: int
    verses: tuple[str, ...]


def kjv_chapters() -> list[Chapter]:
    """The 1,189 chapters in order. Raises `CorpusMissing`."""
    chapters: dict[tuple[str, int], list[str]] = {}
    for book, chapter, verse in _verses(kjv_path().read_text("ascii")):
        chapters.setdefault((book, chapter), []).append(verse)
    return [Chapter(book, number, tuple(verses)) for (book, number), verses in chapters.items()]


def kjv_lines() -> list[str]:
    """All 31,102 verses as lines, with their references ("Ge1:1 In the beginning ...")."""
    return kjv_path().read_text("ascii").splitlines()[1:]


def kjv_path() -> Path:
    """Path of the plain text, fetched and unpacked at the first call. Raises `CorpusMissing`."""
    path = cache_dir() / "kjv.txt"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        text = unpack_bible_data(_bible_data().read_bytes())
        partial = path.with_suffix(".partial")
        partial.write_bytes(text)
        partial.replace(path)
    return path


def unpack_bible_data(data: bytes) -> bytes:
    """Plain text of a `bible.data` file. Raises `CorpusMissing` if it is not one."""
    if not data.startswith(b"EC02Compressed Data File"):
        raise CorpusMissing(f"bible.data begins with {data[:8]!r}, not EC02: another version of {PACKAGE}?")
    (num_windows,) = struct.unpack_from(">I", data, 0x58)
    offsets = struct.unpack_from(f">{num_windows + 1}I", data, 0x5C)
    windows = (data[begin:end] for begin, end in itertools.pairwise(offsets))
    return b"".join(_run(["gzip", "-dc"], LZW_HEADER + window) for window in windows)


def _verses(text: str) -> Iterator[tuple[str, int, str]]:
    for line in text.splitlines()[1:]:
        match = VERSE.match(line)
        if match is None:
            raise CorpusMissing(f"not a verse: {line[:60]!r}")
        yield match[1], int(match[2]), match[4].strip()


def _bible_data() -> Path:
    if INSTALLED.exists():
        return INSTALLED
    return fetch_package(PACKAGE) / INSTALLED.relative_to("/")


def fetch_package(name: str) -> Path:
    """Directory with the unpacked contents of a Debian package, which need not be installed. Raises `CorpusMissing`."""
    folder = cache_dir() / "debian" / name
    if not (folder / "usr").exists():
        folder.mkdir(parents=True, exist_ok=True)
        _download(name, folder)
        (archive,) = folder.glob(f"{name}_*.deb")
        _run(["dpkg-deb", "-x", str(archive), str(folder)])
    return folder


def _download(name: str, folder: Path) -> None:
    """Fetch a .deb; where this machine's package lists are missing or old, with lists of our own (needs no root)."""
    state = cache_dir().absolute() / "debian" / "apt"
    (state / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    own_lists = ["-o", f"Dir::State::Lists={state / 'lists'}", "-o", f"Dir::Cache={state}"]
    try:
        _run(["apt-get", "-q", "download", name], cwd=folder)
    except CorpusMissing:
        _run(["apt-get", "-q", *own_lists, "update"])
        _run(["apt-get", "-q", *own_lists, "download", name], cwd=folder)


def _run(command: list[str], stdin: bytes = b"", cwd: Path | None = None) -> bytes:
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, check=False, cwd=cwd)
    except FileNotFoundError as error:
        raise CorpusMissing(f"{error.filename} is missing. {_advice()}") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise CorpusMissing(f"{' '.join(command)} failed with {done.returncode}: {said}. {_advice()}")
    return done.stdout


def _advice() -> str:
    return (
        f"On Debian or Ubuntu: `sudo apt-get install {PACKAGE}`. Elsewhere: unpack that package's .deb and put its "
        f"text, as `bible` prints it, at {cache_dir() / 'kjv.txt'} (or set {ENV} to where kjv.txt is)."
    )


if __name__ == "__main__":
    print(kjv_path())
