"""`install.py`: parse, check, then install or remove, and say each thing on a line."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from .checks import check
from .facts import gather
from .manifest import Manifest
from .options import Options, options_from, parser
from .staging import StepFailed
from .steps import install, packages_are_there, remove, summary


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 0 done or nothing to do, 1 a check or a step failed."""
    flags = parser()
    given = flags.parse_args(arguments)
    try:
        options = options_from(given)
    except ValueError as error:
        flags.error(str(error))
    try:
        with _alone(options):
            manifest = Manifest.load(options.manifest)
            if given.remove:
                return _remove(options, manifest)
            return _install(options, manifest, only_check=given.check)
    except (StepFailed, ValueError, OSError) as error:
        return _failed(str(error))
    except KeyboardInterrupt:
        return _failed("interrupted; what was begun is undone")


def _install(options: Options, manifest: Manifest, *, only_check: bool) -> int:
    options = options.with_kept_flags(manifest.packages.get("flags", {}))
    there = packages_are_there(options, manifest)
    facts = gather(options, frozenset(manifest.folders), packages_are_there=there)
    results = check(options, facts)
    for result in results:
        _tell(str(result))
    failed = sum(result.level == "fail" for result in results)
    if failed:
        return _failed(f"{failed} check{'s' * (failed > 1)} failed; nothing was changed")
    if only_check:
        _tell("all checks passed; nothing was changed")
        return 0
    upgraded_from = manifest.packages.get("version")
    if not install(options, facts, manifest, _tell):
        _tell(f"nothing to change: {manifest.packages['version']} is installed in {options.home}")
        return 0
    version = manifest.packages["version"]
    _tell(f"installed {version} in {options.home}" + (f" over {upgraded_from}" if upgraded_from else ""))
    for line in summary(options, facts):
        _tell(line)
    return 0


def _remove(options: Options, manifest: Manifest) -> int:
    if manifest.is_empty:
        _tell(f"nothing to remove: no {options.manifest}")
        return 0
    whole = remove(manifest, _tell)
    _tell("removed" if whole else "removed, but for what is named above")
    return 0


@contextmanager
def _alone(options: Options) -> Iterator[None]:
    """One run at a time: a lock on the folder that the installation lies in, which leaves no file."""
    folder = options.home.parent
    while not folder.is_dir():
        folder = folder.parent
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StepFailed(f"another run is at work in {folder}") from None
        yield
    finally:
        os.close(descriptor)


def _tell(line: str) -> None:
    print(line, flush=True)


def _failed(text: str) -> int:
    print(f"install.py: {text}", file=sys.stderr, flush=True)
    return 1
