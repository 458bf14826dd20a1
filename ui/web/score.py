"""The tab Score: how well images of any origin tile, on each axis, and where their seams are."""

from __future__ import annotations

import html
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from asd.errors import ZelligeError
from ui.line import Ticket
from ui.web.page import Page
from ui.web.preview import preview, shown, status
from ui.web.progress import note, running, watch
from ui.web.uploads import MAX_FILES, printable
from ui.web.work import Studio

TITLE = "Score"
WELCOME = "Give one or more textures, yours or another tool's."
COLUMNS = ("File", "Both axes", "Left to right", "Top to bottom", "Seam across", "Seam down", "Verdict")


def build(page: Page) -> None:
    """The tab's components and what they do."""
    studio = page.studio
    with gr.Row(elem_classes="z-columns"):
        with gr.Column(elem_classes="z-side", min_width=300):
            files = gr.File(
                label="Images", file_count="multiple", file_types=[".png", ".jpg", ".jpeg", ".webp"], height=190,
                elem_id="z-score-files",
            )  # fmt: skip
            with gr.Row(elem_classes="z-go"):
                go = gr.Button("Score", variant="primary", elem_id="z-score-go", scale=3, min_width=120)
                stop = gr.Button("Stop", elem_id="z-score-stop", interactive=False, scale=1, min_width=70)
            gr.Markdown(
                "A score is the probability that repeats show no seam. The seam ratio is the step across the border "
                "over the median step inside: about 1 for a tile."
            )
        with gr.Column(elem_classes="z-main", min_width=300):
            notes = status(note(WELCOME), "z-score-status")
            table = gr.HTML("", elem_id="z-score-table", apply_default_css=False)
            look = preview("z-score-preview", "No scores yet", "Each image as repeats with its seam in the centre, "
                           "and in red where a seam would show.")  # fmt: skip

    def on_score(request: gr.Request, given: list[str] | None) -> Iterator[tuple[Any, ...]]:
        yield from score(studio, _owner(request), given or [])

    def on_stop(request: gr.Request) -> None:
        studio.line.stop(_owner(request))

    private: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    go.click(on_score, files, [notes, table, look, go, stop], **private)
    stop.click(on_stop, None, None, queue=False, **private)


def score(studio: Studio, owner: str, files: list[str]) -> Iterator[tuple[Any, ...]]:
    """Values for status, table, preview and both buttons, from the click to the end."""
    skip = gr.skip()
    try:
        if not files:
            raise ZelligeError("Expected one or more images, but got none")
        if len(files) > MAX_FILES:
            raise ZelligeError(f"Expected at most {MAX_FILES} images at once, but got {len(files)}")
        ticket = studio.line.submit(owner, partial(score_files, studio, files))
    except ZelligeError as error:
        yield note(str(error), kind="bad"), *[skip] * 4
        return
    yield running(ticket), skip, skip, gr.update(interactive=False), gr.update(interactive=True)
    for text in watch(ticket):
        yield text, *[skip] * 4
    buttons = gr.update(interactive=True), gr.update(interactive=False)
    if ticket.state != "done":
        text = note(studio.plain(ticket.error), kind="bad") if ticket.error else note("Stopped.")
        yield text, skip, skip, *buttons
        return
    items, faults = ticket.result
    bad = "".join(note(fault, kind="bad") for fault in faults)
    low = sum(item["score"]["verdict"] != "tiles" for item in items)
    text = f"{len(items)} scored, {low} with a seam." if items else ""
    yield (note(text, kind="plain" if low else "good") if text else "") + bad, rows(items), shown(items), *buttons


def score_files(studio: Studio, files: list[str], ticket: Ticket) -> tuple[list[dict[str, Any]], list[str]]:
    """What the preview shows of each image, best first, and a sentence for each file that is none."""
    from ui.scoring import ImageScore, score_file

    ticket.begin()
    items, faults = [], []
    for place, file in enumerate(files):
        ticket.report(place / len(files), f"Image {place + 1} of {len(files)}")
        try:
            path = studio.limits.image(file)
            found = score_file(path)
            if not isinstance(found, ImageScore):
                raise ZelligeError(found.reason.replace(str(path), path.name))
            items.append(studio.views.image(path, printable(path.name), found))
        except ZelligeError as error:
            faults.append(str(error).replace(file, Path(file).name))
    return sorted(items, key=lambda item: -item["score"]["both"]), faults


def rows(items: list[dict[str, Any]]) -> str:
    """A table of scores; nothing for no items."""
    if not items:
        return ""
    head = "".join(f'<th scope="col"{_number(place)}>{name}</th>' for place, name in enumerate(COLUMNS))
    body = "".join(f"<tr>{_cells(item)}</tr>" for item in items)
    return (
        '<div class="z-scroll" tabindex="0" role="region" aria-label="Scores"><table class="z-table">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cells(item: dict[str, Any]) -> str:
    score = item["score"]
    values = [f"{score[key]:.2f}" for key in ("both", "x", "y", "seam_x", "seam_y")]
    cells = [html.escape(item["title"]), *values, html.escape(score["verdict"])]
    return "".join(f"<td{_number(place)}>{cell}</td>" for place, cell in enumerate(cells))


def _number(column: int) -> str:
    return ' class="z-number"' if 0 < column < len(COLUMNS) - 1 else ""


def _owner(request: gr.Request) -> str:
    return f"{TITLE} {request.session_hash}"
