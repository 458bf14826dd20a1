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
from ui.web.preview import STATIC
from ui.web.views import read_result
from ui.web.work import Studio

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
            found.append((os.stat(path / "material.json").st_mtime, path))
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
    picture = folder / "preview.png"
    if not picture.is_file() or picture.is_symlink():
        picture = folder / "basecolor.png"
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(os.stat(folder / "material.json").st_mtime))
    return {
        "title": str(request.get("prompt") or folder.name)[:200],
        "when": when,
        "image": studio.views.thumbnail(picture),
    }


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith(".") or not entry.is_dir(follow_symlinks=False):
            continue
        path = Path(entry.path)
        if (path / "material.json").is_file():
            yield path
        elif depth > 1:
            yield from _walk(path, depth - 1)
