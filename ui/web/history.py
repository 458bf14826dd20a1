"""The tab History: what is in the folder of results, to look at, to pack and to make again."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import gradio as gr

from asd.errors import ZelligeError
from ui.request import Kind
from ui.web.kept import places
from ui.web.packs import NOTHING, Download, Packs, checked_index, item_of
from ui.web.page import Filled, Page
from ui.web.preview import preview, shown
from ui.web.progress import note
from ui.web.shelf import cards, find_results
from ui.web.shelf import shelf as results
from ui.web.uploads import printable, trusted
from ui.web.views import read_result
from ui.web.work import Studio

TITLE = "History"
PER_PAGE = 24


def build(page: Page) -> None:
    """The tab's components and what they do."""
    studio = page.studio
    listed, count = gr.State([]), gr.State(PER_PAGE)
    made, chosen = gr.State([]), gr.State(0)
    with gr.Row(elem_classes="z-go z-tools"):
        refresh = gr.Button("Refresh", size="sm", elem_id="z-history-refresh", min_width=100, scale=0)
    status = gr.HTML("", elem_id="z-history-status", apply_default_css=False)
    shelf = results("z-shelf")
    more = gr.Button("Show more", visible=False, elem_id="z-history-more", scale=0)
    look = preview("z-history-preview", "Nothing chosen", "Choose a result above to look at it again.")
    packs = Packs(studio, "z-history", ("Recall settings", "z-history-recall"))
    picture = Download(studio, "z-history-picture", ("Recall settings", "z-history-picture-recall"))
    packs.connect(made, chosen)

    def on_list() -> tuple[Any, ...]:
        return list_results(studio, PER_PAGE)

    def on_more(now: int) -> tuple[Any, ...]:
        return list_results(studio, now + PER_PAGE)

    def on_select(found: list[str], event: gr.EventData) -> tuple[Any, ...]:
        return open_result(studio, found, event)

    quick: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    outputs = [status, shelf, listed, count, more]
    refresh.click(on_list, None, outputs, **quick)
    page.tab.select(on_list, None, outputs, **quick)
    more.click(on_more, count, outputs, **quick)
    shelf.select(on_select, listed, [status, look, made, packs.row, packs.files, picture.row, picture.files], **quick)
    forms = page.forms
    recalled = [field for form in forms.values() for field in (*form.inputs, form.notes)]

    def on_recall(items: list[dict[str, Any]], index: int) -> tuple[Any, ...]:
        return recall(studio, forms, items, index)

    for button in (packs.more, picture.more):
        if button is not None:
            button.click(on_recall, [made, chosen], [*recalled, status, page.tabs], **quick)


def list_results(studio: Studio, count: int) -> tuple[Any, ...]:
    """Values for status, shelf, the folders behind it, how many, and the button for more."""
    every = find_results(studio.out)
    shown_cards, folders = cards(studio, every[:count])
    text = "" if every else note("Nothing is here yet; what you make will be.")
    return text, shown_cards, folders, count, gr.update(visible=len(every) > count)


def open_result(studio: Studio, folders: list[str], event: gr.EventData) -> tuple[Any, ...]:
    """Values for status, preview, its items, then the row below and its files of a material and of a picture."""
    index = checked_index([{} for _ in folders], event)
    skip = gr.skip()
    if index is None:
        return *[skip] * 4, NOTHING, skip, skip
    folder = Path(folders[index])
    try:
        items = [studio.views.result(folder, studio.out) | {"folder": str(folder)}]
    except (ZelligeError, OSError) as error:
        return note(studio.told(error), kind="bad"), *[skip] * 3, NOTHING, skip, skip
    download = items[0].get("download")
    exported, offered = gr.update(visible=download is None), gr.update(visible=download is not None)
    return "", shown(items), items, exported, NOTHING, offered, gr.update(value=download)


def recall(studio: Studio, forms: Mapping[Kind, Filled], items: list[dict[str, Any]], index: int) -> tuple[Any, ...]:
    """Values for all forms with their notes, the note here and the tabs: the settings, on the tab that makes such."""
    skip = gr.skip()
    values: dict[Kind, list[Any]] = {kind: [skip] * (len(form.inputs) + 1) for kind, form in forms.items()}
    try:
        folder = Path(item_of(items, index)["folder"])
        told = read_result(folder).get("request")
        if not isinstance(told, dict):
            raise ZelligeError(f"Expected a result with its settings, but {folder.name} has none")
        found, left = trusted(told, places(studio.out))
        found = studio.views.uploaded(found)
    except (ZelligeError, OSError) as error:
        return *chain(*values.values()), note(studio.told(error), kind="bad"), skip
    without = f", but for {' and '.join(left)}" if left else ""
    form = forms[found.kind]
    values[found.kind] = [*form.fill(found), note(f"All settings of {printable(folder.name)} are back{without}.")]
    return *chain(*values.values()), "", gr.Tabs(selected=form.title)
