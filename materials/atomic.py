"""Files that appear whole or not at all."""

from __future__ import annotations

import os
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
        try:
            with open(beside, "wb") as handle:
                yield handle
            os.replace(beside, path)
        except OSError as error:
            raise OutputError(_sentence(path, error)) from error
    except BaseException:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise


def make_folder(folder: Path) -> None:
    """Make `folder` and its parents; an existing folder is fine. Raises OutputError otherwise."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(_sentence(folder, error)) from error


def _sentence(path: Path, error: OSError) -> str:
    return f"Expected to write {path}, but the system refused: {error.strerror or error}."
