"""The tab Batch: a manifest, what it will take, its rows made one after the other, and all of them to download."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from asd.errors import ZelligeError
from ui import memory
from ui.batch import BatchInterrupted, BatchProgress, Plan, Summary, plan_batch, run_batch
from ui.estimate import estimate, work
from ui.line import Ticket
from ui.manifest import ManifestError, Problem, read_manifest
from ui.output import free_space
from ui.web import fields
from ui.web.kept import keep_file, places, with_images
from ui.web.packs import checked_index
from ui.web.page import Page
from ui.web.preview import preview, shown, status
from ui.web.progress import clock, note, running, watch
from ui.web.shelf import cards, find_results, shelf
from ui.web.uploads import MAX_FILES, check_local, slug
from ui.web.work import Studio

TITLE = "Batch"
WELCOME = "Give a manifest: JSON lines, CSV or YAML, with an id and the settings of a material in each row."
EXAMPLE = (
    '<div class="z-example"><p>For example, as walls.jsonl:</p><pre tabindex="0">'
    '{"id": "brick", "prompt": "red brick wall", "size": "512x512", "seed": 7}\n'
    '{"id": "oak", "prompt": "oak planks", "seamless": "x", "count": 4, "lock": {"roughness": 0.8}}\n'
    '{"id": "plaster", "kind": "maps", "image": "plaster.jpg", "seamless": "xy"}</pre>'
    "<p>Pictures that rows name, such as plaster.jpg, are given beside the manifest. Check says what it will take and "
    "finds every fault before anything runs. Each row becomes a folder; a stop loses nothing: Run goes on.</p></div>"
)
BATCHES = "batches"
"""In the folder of results."""
LISTED = 20
"""Faults that are shown; one mistake in a script makes thousands."""
SHOWN = 48
"""Cards of the newest rows; History has all of them."""
ANEW = "Make changed rows anew"


def build(page: Page) -> None:
    """The tab's components and what they do."""
    studio = page.studio
    listed = gr.State([])
    with gr.Row(elem_classes="z-columns"):
        with gr.Column(elem_classes="z-side", min_width=300):
            manifest = gr.File(
                label="Manifest", file_types=[".jsonl", ".ndjson", ".csv", ".yaml", ".yml"], height=120,
                elem_id="z-batch-file",
            )  # fmt: skip
            pictures = gr.File(
                label="Pictures that its rows name", file_count="multiple", file_types=fields.IMAGES, height=96,
                elem_id="z-batch-pictures",
            )  # fmt: skip
            name = gr.Textbox(
                "", label="Name", placeholder="as the manifest", max_lines=1, elem_id="z-batch-name",
                info="The same name goes on where it was stopped.",
            )  # fmt: skip
            anew = gr.Checkbox(False, label=ANEW, elem_id="z-batch-anew")
            with gr.Row(elem_classes="z-go"):
                check = gr.Button("Check", elem_id="z-batch-check", min_width=80)
                go = gr.Button("Run", variant="primary", elem_id="z-batch-go", min_width=80)
                stop = gr.Button("Stop", elem_id="z-batch-stop", interactive=False, min_width=70)
        with gr.Column(elem_classes="z-main", min_width=300):
            notes = status(note(WELCOME), "z-batch-status")
            table = gr.HTML(EXAMPLE, elem_id="z-batch-table", apply_default_css=False)
            made = shelf("z-batch-shelf")
            pack = gr.Button("Pack all as ZIP", visible=False, scale=0, elem_id="z-batch-pack")
            packed = gr.File(label="All rows", visible=False, interactive=False, elem_id="z-batch-zip")
            look = preview(
                "z-batch-preview", "Nothing chosen", "Rows appear above as they are made; choose one to look at it."
            )

    def on_check(file: str | None, called: str, again: bool, given: list[str] | None) -> tuple[str, str]:
        return dry_run(studio, file, called, again, given or [])

    def on_run(
        request: gr.Request, file: str | None, called: str, again: bool, given: list[str] | None
    ) -> Iterator[tuple[Any, ...]]:
        yield from run(studio, _owner(request), file, called, again, given or [])

    def on_stop(request: gr.Request) -> None:
        studio.line.stop(_owner(request))

    def on_pack(file: str | None, called: str) -> tuple[Any, str]:
        return pack_all(studio, file, called)

    def on_select(folders: list[str], event: gr.EventData) -> tuple[Any, Any]:
        return look_at(studio, folders, event)

    private: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    check.click(on_check, [manifest, name, anew, pictures], [notes, table], **private)
    go.click(on_run, [manifest, name, anew, pictures], [notes, table, pack, packed, go, stop, made, listed], **private)
    made.select(on_select, listed, [notes, look], **private)
    stop.click(on_stop, None, None, queue=False, **private)
    pack.click(on_pack, [manifest, name], [packed, notes], **private)


def plan(studio: Studio, file: str | None, name: str, anew: bool, pictures: Sequence[str] = ()) -> Plan:
    """What a run will do; raises ZelligeError, or ManifestError with all faults.

    `pictures` are uploads, which rows name as they were called.
    """
    if not file:
        raise ZelligeError("Expected a manifest, but got none")
    if len(pictures) > MAX_FILES:
        raise ZelligeError(f"Expected at most {MAX_FILES} pictures, but got {len(pictures)}")
    given = {Path(path).name: path for path in pictures}

    def kept(path: str, folder: str) -> str:
        return path if path not in given else keep_file(studio.limits.image(given[path]), studio.out / folder)

    rows, problems = [], []
    for row in read_manifest(file):
        try:
            request = with_images(row.request, kept)
            check_local(request, places(studio.out))
            studio.limits.check(request)
        except ZelligeError as error:
            problems.append(Problem(line=row.line, message=str(error)))
        else:
            rows.append(replace(row, request=request))
    if problems:
        raise ManifestError(file, problems)
    return plan_batch(file, tuple(rows), _folder(studio, file, name), overwrite=anew, fetch=False)


def dry_run(studio: Studio, file: str | None, name: str, anew: bool, pictures: Sequence[str] = ()) -> tuple[str, str]:
    """A note and a table: what a run will take, or what is wrong."""
    try:
        found = estimate(plan(studio, file, name, anew, pictures))
    except (ZelligeError, OSError) as error:
        return _faults(studio, error), ""
    free = "" if found.free_bytes is None else f", {memory.human(found.free_bytes)} free"
    rows = [
        ("Rows to make", str(found.rows)),
        ("Whole already", str(found.kept)),
        ("Pixels", f"{found.pixels / 1e6:.1f} million"),
        ("Time", f"{clock(found.seconds) if found.rows else 'none'} ({found.rate_is})"),
        ("Disk", f"at most {memory.human(found.disk_bytes)}{free}"),
    ]
    body = "".join(f'<tr><th scope="row">{key}</th><td>{value}</td></tr>' for key, value in rows)
    table = f'<div class="z-scroll"><table class="z-table"><tbody>{body}</tbody></table></div>'
    return note("Every row is fit to be made." if found.rows else "Every row is whole already.", kind="good"), table


def run(
    studio: Studio, owner: str, file: str | None, name: str, anew: bool, pictures: Sequence[str] = ()
) -> Iterator[tuple[Any, ...]]:
    """Values for status, table, pack button, pack, both buttons and the shelf with its folders, from click to end."""
    skip = gr.skip()
    hidden = gr.update(value=None, visible=False)
    try:
        planned = plan(studio, file, name, anew, pictures)
        ticket = studio.line.submit(owner, partial(make_rows, studio, planned), cost=_cost(planned))
    except (ZelligeError, OSError) as error:
        yield _faults(studio, error), "", *[skip] * 6
        return
    away = gr.update(visible=False)
    yield running(ticket), "", away, hidden, gr.update(interactive=False), gr.update(interactive=True), "[]", []
    row = ""
    for text in watch(ticket):
        now = ticket.label
        yield text, *[skip] * 5, *(cards(studio, find_results(planned.out)[:SHOWN]) if now != row else (skip, skip))
        row = now
    buttons = gr.update(interactive=True), gr.update(interactive=False)
    if ticket.state != "done":
        text = note(studio.plain(ticket.error), kind="bad") if ticket.error else note("Stopped; nothing was made.")
        yield text, "", skip, skip, *buttons, skip, skip
        return
    summary, stopped = ticket.result
    whole = len(summary.made) + len(summary.kept)
    found = cards(studio, find_results(planned.out)[:SHOWN])
    yield _told(studio, summary, stopped), "", gr.update(visible=whole > 0), hidden, *buttons, *found


def look_at(studio: Studio, folders: list[str], event: gr.EventData) -> tuple[Any, Any]:
    """Values for status and preview, for the card that was pressed."""
    index = checked_index([{} for _ in folders], event)
    if index is None:
        return gr.skip(), gr.skip()
    try:
        return gr.skip(), shown([studio.views.result(Path(folders[index]), studio.out)])
    except (ZelligeError, OSError) as error:
        return note(studio.told(error), kind="bad"), gr.skip()


def make_rows(studio: Studio, planned: Plan, ticket: Ticket) -> tuple[Summary, bool]:
    """The summary of a run, and whether it was stopped; rows that are whole stay."""

    def show(progress: BatchProgress) -> None:
        share = progress.done / progress.total if progress.total else 1.0
        ticket.report(share, f"Row {progress.number} of {progress.rows}: {progress.id}")

    ticket.report(0.0, "Loading the model")
    ticket.begin()
    try:
        return run_batch(planned, models=studio.models, progress=show), False
    except BatchInterrupted as stopped:  # by `Stopped`: Ctrl-C reaches only the main thread
        return stopped.summary, True


def pack_all(studio: Studio, file: str | None, name: str) -> tuple[Any, str]:
    """One zip file of the batch's folder and a note."""
    hidden = gr.update(value=None, visible=False)
    try:
        if not file:
            raise ZelligeError("Expected a manifest, but got none")
        folder = _folder(studio, file, name)
        files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
        files = [path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
        if not files:
            raise ZelligeError(f"Expected a batch {folder.name} that was run, but there is none")
        needed, free = sum(path.stat().st_size for path in files), free_space(studio.views.root)
        if free is not None and needed > free:
            raise ZelligeError(f"Expected {memory.human(needed)} of free disk for the ZIP, "
                               f"but there is {memory.human(free)}")  # fmt: skip
        place = studio.views.folder() / f"{folder.name}.zip"
        with zipfile.ZipFile(place, "w", zipfile.ZIP_STORED) as archive:  # PNG files do not shrink
            for path in files:
                archive.write(path, f"{folder.name}/{path.relative_to(folder).as_posix()}")
    except (ZelligeError, OSError) as error:
        return hidden, note(studio.told(error), kind="bad")
    return gr.update(value=str(place), visible=True), note(f"{len(files)} files are packed below.", kind="good")


def _cost(planned: Plan) -> float:
    return sum(work(task.row.request) for task in planned.todo)


def _folder(studio: Studio, file: str, name: str) -> Path:
    return studio.out / BATCHES / slug(name if name and name.strip() else Path(file).stem, "batch")


def _told(studio: Studio, summary: Summary, stopped: bool) -> str:
    made, kept, failed = len(summary.made), len(summary.kept), len(summary.failed)
    counts = f"{made} made, {kept} whole already, {failed} failed"
    left = len(summary.plan.todo) - made - failed
    if stopped and left:
        text = note(f"Stopped: {counts}, {left} to do; Run goes on from there.")
    else:
        text = note(f"{counts} in {clock(summary.seconds)}.", kind="plain" if failed else "good")
    lines = [f"{record.id}: {record.error}" for record in summary.failed[:LISTED]]
    return text + "".join(note(studio.plain(line), kind="bad") for line in lines)


def _faults(studio: Studio, error: Exception) -> str:
    if not isinstance(error, ManifestError):
        return note(studio.told(error), kind="bad")
    lines = [f"Line {each.line}: {each.message}" for each in error.problems[:LISTED]]
    more = len(error.problems) - LISTED
    lines += [f"And {more} more"] if more > 0 else []
    return "".join(note(studio.plain(line).replace("--overwrite", f"“{ANEW}”"), kind="bad") for line in lines)


def _owner(request: gr.Request) -> str:
    return f"{TITLE} {request.session_hash}"
