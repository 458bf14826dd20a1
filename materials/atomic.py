"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from materials.errors import OutputError


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A binary handle on a new file beside `path`, which takes its place when the block ends without an error.

    Whatever stops the block (Ctrl-C too), the file beside is removed and an older file at `path` stays as it was.
    Raises OutputError, one sentence, where the system refuses: no permission, no space left, not a folder.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with refused(path):
            with open(beside, "wb") as handle:
                yield handle
            os.replace(beside, path)
    except BaseException:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise


def make_folder(folder: Path) -> None:
    """Make `folder` and its parents; an existing folder is fine. Raises OutputError otherwise."""
    with refused(folder):
        folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A new hidden folder beside `folder` that takes its place when the block ends without an error.

    Whatever stops the block, the hidden folder is removed, with the parents that were made for it, and `folder` stays
    as it was. Raises OutputError where the system refuses.
    """
    place = folder.resolve()
    token = f"{os.getpid()}-{secrets.token_hex(4)}"
    stage = place.with_name(f".{place.name}.{token}.tmp")
    made: list[Path] = []
    try:
        with refused(folder):
            _make_parents(place.parent, made)
            stage.mkdir()
        yield stage
        with refused(folder):
            _swap(stage, place, place.with_name(f".{place.name}.{token}.old"))
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        for parent in reversed(made):
            with suppress(OSError):  # not empty: somebody else's by now
                parent.rmdir()
        raise


@contextmanager
def refused(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into an OutputError that names `path`."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"Expected to write {path}, but the system refused: {error.strerror or error}.") from error


def _make_parents(folder: Path, made: list[Path]) -> None:
    """`mkdir -p`, noting in `made` what was not there."""
    if not folder.exists():
        _make_parents(folder.parent, made)
        folder.mkdir(exist_ok=True)
        made.append(folder)


def _swap(stage: Path, place: Path, old: Path) -> None:
    if not place.exists():
        stage.rename(place)
        return
    place.rename(old)
    try:
        stage.rename(place)
    except BaseException:
        old.rename(place)
        raise
    shutil.rmtree(old, ignore_errors=True)
