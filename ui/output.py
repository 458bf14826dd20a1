"""Result folders: where they lie, and which of them may be replaced."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from asd.errors import OutputError
from materials.atomic import refused

MANIFESTS = ("material.json", "image.json")
"""The files that make a folder a result: one of them."""


def sample_folders(out: Path, count: int) -> list[Path]:
    """`out` itself for one sample, else `out`/0000, `out`/0001, …"""
    return [out] if count == 1 else [out / f"{index:04d}" for index in range(count)]


def check_output(out: Path, count: int, *, overwrite: bool) -> None:
    """Raise OutputError unless every folder of `sample_folders` can become a result without losing anything.

    `out` must be absent or empty. With `overwrite`, a folder that holds an earlier result and nothing else is replaced,
    and a folder of samples keeps what is not replaced.
    """
    with refused(out):
        nearest = next(folder for folder in [out, *out.resolve().parents] if folder.exists())
    if not nearest.is_dir():
        raise OutputError(f"Expected an output folder, but got the file {nearest}")
    if not overwrite and _entries(out):
        raise OutputError(f"Expected the output folder to be absent or empty, but {out} holds files "
                          "(--overwrite replaces an earlier result)")  # fmt: skip
    for folder in sample_folders(out, count):
        _check_replaceable(folder)


def free_space(path: Path) -> int | None:
    """Free bytes on the disk of the nearest existing folder of `path`; None where the system does not say."""
    for folder in [path, *path.resolve().parents]:
        with suppress(OSError):
            return shutil.disk_usage(folder).free
    return None


def _entries(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    except NotADirectoryError as error:
        raise OutputError(f"Expected an output folder, but got the file {folder}") from error
    except OSError as error:
        raise OutputError(f"Expected to read {folder}, but the system refused: {error.strerror}") from error


def _check_replaceable(folder: Path) -> None:
    entries = _entries(folder)
    if folder.is_dir() and os.path.ismount(folder):
        raise OutputError(f"Expected a folder that can be replaced whole, but {folder} is a mount point; "
                          f"use a folder in it, such as {folder / 'result'}")  # fmt: skip
    if not entries:
        return
    known: set[str] = set()
    for manifest in MANIFESTS:
        with suppress(OSError, ValueError, RecursionError):
            known |= {manifest, *_strings(json.loads((folder / manifest).read_text(encoding="utf-8")))}
    foreign = [name for name in entries if name not in known or (folder / name).is_dir()]
    if foreign:
        raise OutputError(f"Expected {folder} to hold an earlier result and nothing else, but it holds {foreign[0]!r}")


def _strings(value: Any) -> Iterator[str]:
    """Every string inside a JSON value: the names of a result's files are among them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
