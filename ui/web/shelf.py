"""Results as cards with a picture, a title and a date, on the tabs History and Batch."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from asd.errors import ZelligeError
from ui.output import MANIFESTS
from ui.web.preview import STATIC
from ui.web.views import NAMES, read_result
from ui.web.work import Studio

PICTURES = ("preview.png", "image.png", "basecolor.png")
"""Of a result: the first that is there is on its card."""
DEEPEST = 4
"""Folders below that of the results: batches/NAME/ID/0000."""


def shelf(elem_id: str) -> gr.HTML:
    """The component; its value is from `cards`, and it triggers `select` with the index of the card that is pressed."""
    return gr.HTML(
        value="[]",
        html_template='<div class="z-shelf" role="group" aria-label="Results, newest first"></div>',
        js_on_load=(STATIC / "shelf.js").read_text(encoding="utf-8"),
        elem_id=elem_id,
        apply_default_css=False,
    )


def find_results(out: Path) -> list[Path]:
    """Result folders below `out`, newest first; links and hidden folders are left alone."""
    found = []
    for path in _walk(out, DEEPEST):
        try:
            found.append((os.stat(_manifest(path)).st_mtime, path))
        except OSError:
            continue  # being replaced
    return [path for _, path in sorted(found, key=lambda pair: (-pair[0], str(pair[1])))]


def cards(studio: Studio, folders: Sequence[Path]) -> tuple[str, list[str]]:
    """What the component shows of result folders, and those that are whole, in the same order."""
    made, kept = [], []
    for folder in folders:
        try:
            made.append(_card(studio, folder))
        except (ZelligeError, OSError):
            continue  # being replaced, or damaged by hand
        kept.append(str(folder))
    return json.dumps(made), kept


def _card(studio: Studio, folder: Path) -> dict[str, Any]:
    told = read_result(folder)
    request = told["request"] if isinstance(told.get("request"), dict) else {}
    pictures = (folder / name for name in PICTURES)
    picture = next((path for path in pictures if path.is_file() and not path.is_symlink()), folder / PICTURES[-1])
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(os.stat(_manifest(folder)).st_mtime))
    named = {str(kind): name for kind, name in NAMES.items()}.get(str(request.get("kind")), folder.name)
    return {
        "title": str(request.get("prompt") or named)[:200],
        "when": when,
        "image": studio.views.thumbnail(picture),
    }


def _manifest(folder: Path) -> Path:
    return next((folder / name for name in MANIFESTS if (folder / name).is_file()), folder / MANIFESTS[0])


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith(".") or not entry.is_dir(follow_symlinks=False):
            continue
        path = Path(entry.path)
        if any((path / name).is_file() for name in MANIFESTS):
            yield path
        elif depth > 1:
            yield from _walk(path, depth - 1)
