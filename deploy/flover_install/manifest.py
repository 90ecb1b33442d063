"""What runs have made, kept in a file of the installation: which files and folders, and how they looked.

Whatever was not made here, or looks different since, is left alone and named. Texts are compared by content; the many
files of packages by size and whole second of their time, since an image layer keeps no more of a time.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FORMAT = 1


@dataclass
class Manifest:
    """`files`: absolute path -> its mark. `folders`: those made. `models`: model folder -> what was asked for it."""

    path: Path
    files: dict[str, str] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    packages: dict[str, Any] = field(default_factory=dict)
    """Fingerprint and version of what is installed, and the flags that it was asked for with."""

    @staticmethod
    def load(path: Path) -> Manifest:
        """An empty one where there is none. Raises ValueError for a file of another format."""
        if not path.is_file():
            return Manifest(path)
        told = json.loads(path.read_text())
        if told.pop("format", None) != FORMAT:
            raise ValueError(f"{path} is of another release of this script: use that one's --remove first")
        return Manifest(path, **told)

    @property
    def is_empty(self) -> bool:
        """True when nothing is installed."""
        return not self.files and not self.folders

    def save(self) -> None:
        """Replace the file as a whole."""
        text = {
            "format": FORMAT,
            "packages": self.packages,
            "models": self.models,
            "folders": self.folders,
            "files": self.files,
        }
        draft = self.path.with_name(f"{self.path.name}.new")
        draft.write_text(json.dumps(text, indent=1) + "\n")
        draft.replace(self.path)

    def make_folder(self, folder: Path) -> None:
        """With its parents; only those that were not there become ours."""
        if not folder.is_dir():
            self.make_folder(folder.parent)
            folder.mkdir()
            self.folders.append(str(folder))

    def write(self, path: Path, text: str) -> str:
        """Bring a text file to this content. Returns `made`, `changed`, `same`, or `kept`: it was edited since."""
        before = path.read_text() if path.is_file() else None
        recorded = self.files.get(str(path))
        if before is not None and recorded != _mark_of_text(before):
            return "same" if before == text else "kept"
        self.make_folder(path.parent)
        self.files[str(path)] = _mark_of_text(text)
        if before == text:
            return "same"
        path.write_text(text)
        return "made" if before is None else "changed"

    def adopt(self, folder: Path) -> None:
        """All that lies in a folder which this run has filled."""
        self.folders.append(str(folder))
        for path in sorted(folder.rglob("*")):
            if path.is_dir() and not path.is_symlink():
                self.folders.append(str(path))
            else:
                self.files[str(path)] = _mark_of_file(path)

    def within(self, folder: Path) -> dict[str, str]:
        """The files of a folder."""
        start = f"{folder}{os.sep}"
        return {path: mark for path, mark in self.files.items() if path.startswith(start)}

    def is_intact(self, folder: Path) -> bool:
        """Whether a folder's files are there as they were made."""
        return folder.is_dir() and all(_is_as_made(Path(path), mark) for path, mark in self.within(folder).items())

    def remove(self, folder: Path | None = None, moved_to: Path | None = None) -> list[str]:
        """Remove the files and folders made here; returns what was left, with the reason.

        With `folder`, those in it alone; it may have been moved since.
        """
        files = dict(self.files) if folder is None else self.within(folder)
        folders = [path for path in self.folders if folder is None or _is_within(Path(path), folder)]
        left = []
        for path, mark in files.items():
            place = _moved(Path(path), folder, moved_to)
            if os.path.lexists(place) and not _is_as_made(place, mark):
                left.append(f"{place} (changed since)")
            else:
                _remove_file(place)
            del self.files[path]
        for path in sorted(folders, key=len, reverse=True):
            left += _remove_folder(_moved(Path(path), folder, moved_to), left)
            self.folders.remove(path)
        return left


def _is_within(path: Path, folder: Path) -> bool:
    return path == folder or folder in path.parents


def _moved(path: Path, folder: Path | None, to: Path | None) -> Path:
    return path if folder is None or to is None else to / path.relative_to(folder)


def _mark_of_text(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _mark_of_file(path: Path) -> str:
    if path.is_symlink():
        return f"link:{os.readlink(path)}"
    status = path.stat()
    return f"stat:{status.st_size}:{int(status.st_mtime)}"


def _is_as_made(path: Path, mark: str) -> bool:
    if not os.path.lexists(path):
        return False
    if mark.startswith("sha256:"):
        return path.is_file() and _mark_of_text(path.read_text(errors="replace")) == mark
    return _mark_of_file(path) == mark


def _remove_file(path: Path) -> None:
    """With what Python has compiled of it beside it."""
    path.unlink(missing_ok=True)
    if path.suffix == ".py":
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
            compiled.unlink()


def _remove_folder(folder: Path, left: list[str]) -> list[str]:
    """Empty ones; what else lies in it is told, unless it has been told already."""
    cache = folder / "__pycache__"
    if cache.is_dir() and not any(cache.iterdir()):
        cache.rmdir()
    if not folder.is_dir():
        return []
    strange = [path for path in folder.iterdir() if not any(told.startswith(str(path)) for told in left)]
    if not any(folder.iterdir()):
        folder.rmdir()
        return []
    return [f"{path} (not made by this script)" for path in strange]
