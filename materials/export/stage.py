"""Which folder may become one of packs."""

from __future__ import annotations

import json
import os
from pathlib import Path

from materials.errors import OutputError

MANIFEST = "pack.json"
"""The file that makes a folder an export; it lists every other file."""


def check_place(out: Path, *, overwrite: bool) -> None:
    """Raise OutputError unless `out` is absent, empty, or with `overwrite` an earlier export and nothing else."""
    try:
        entries = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if not path.is_dir())
        empty = not out.exists() or not any(out.iterdir())
    except NotADirectoryError as error:
        raise OutputError(f"Expected an output folder, but got the file {out}.") from error
    except OSError as error:
        raise OutputError(f"Expected to read {out}, but the system refused: {error.strerror}.") from error
    if empty:
        return
    if not overwrite:
        raise OutputError(f"Expected the output folder to be absent or empty, but {out} holds files "
                          "(overwrite replaces an earlier export).")  # fmt: skip
    if os.path.ismount(out):
        raise OutputError(f"Expected a folder that can be replaced whole, but {out} is a mount point.")
    try:
        manifest = json.loads((out / MANIFEST).read_bytes())
        known = {MANIFEST, *(str(name) for name in manifest["files"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(f"Expected {out} to hold an earlier export, but it has no {MANIFEST} of one.") from error
    if foreign := [name for name in entries if name not in known]:
        raise OutputError(f"Expected {out} to hold an earlier export and nothing else, but it holds {foreign[0]!r}.")
