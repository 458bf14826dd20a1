"""Who is at work in the folder of a batch, and what a killed run left there."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from materials.atomic import refused
from ui.results import MANIFEST_FILE, MERGED_FILE

LOCK_FILE = ".batch.lock"
_HIDDEN = re.compile(r"\.\.?(.+?)(\.[0-9]+-[0-9a-f]{8}\.(tmp|old)){1,2}")
"""What `staged` and `write_whole` call their beginnings; a job inside `staged` nests them once."""


@contextmanager
def present(out: Path, ids: set[str]) -> Iterator[None]:
    """Hold a lock that says a run is going on in `out`; whoever is alone there first clears what a killed one left."""
    try:
        import fcntl
    except ImportError:  # Windows: nobody can tell whether what is there is still being written
        yield
        return
    with refused(out):
        handle = os.open(out / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        with suppress(OSError):  # others are at work, or a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _clear(out, ids)
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)


def leftovers(out: Path, ids: set[str]) -> list[Path]:
    """The hidden folders that `staged` makes, nested once, of these rows, and half-written files; nobody sees them."""
    found = []
    for path in out.glob(".*"):
        match = _HIDDEN.fullmatch(path.name)
        if match is None or path.is_symlink():
            continue
        if match[1] in ids if path.is_dir() else match[1] in (MANIFEST_FILE, MERGED_FILE):
            found.append(path)
    return found


def _clear(out: Path, ids: set[str]) -> None:
    for path in leftovers(out, ids):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
