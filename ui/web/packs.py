"""The row under a preview: what the chosen result is exported for, and what can be downloaded."""

from __future__ import annotations

from typing import Any, Protocol

import gradio as gr

from asd.errors import ZelligeError
from materials.export.targets import TARGETS
from ui.web.progress import note
from ui.web.uploads import slug
from ui.web.work import Studio

NAMES = {
    "gltf": "glTF", "usd": "USD", "materialx": "MaterialX", "unreal": "Unreal", "unity": "Unity", "godot": "Godot",
    "blender": "Blender", "ambientcg": "ambientCG", "polyhaven": "Poly Haven",
}  # fmt: skip
NOTHING = gr.update(value=None, visible=False)


class After(Protocol):
    """A row that is shown where there is a result."""

    row: Any
    files: Any
    """What is downloaded from."""
    more: gr.Button | None

    def connect(self, made: gr.State, chosen: gr.State) -> None:
        """Let the buttons work on item `chosen` of the list `made`."""
        ...

    def offered(self, items: list[dict[str, Any]], index: int) -> Any:
        """The value of `files` when another item is chosen."""
        ...


class Packs:
    """Exports of a material. `files` are emptied when another one is chosen."""

    def __init__(self, studio: Studio, prefix: str, more: tuple[str, str] | None = None) -> None:
        """`prefix` starts the ids; `more` is the text and the id of another button."""
        self.studio = studio
        with gr.Column(visible=False, elem_id=f"{prefix}-after", elem_classes="z-after") as row:
            self.targets = gr.CheckboxGroup(
                [(NAMES.get(name, name), name) for name in TARGETS], value=["gltf"], label="Export for"
            )
            with gr.Row(elem_classes="z-go"):
                self.export = gr.Button("Pack as ZIP", elem_id=f"{prefix}-export", min_width=120)
                self.more = None if more is None else gr.Button(more[0], elem_id=more[1], min_width=120)
            self.files: Any = gr.File(label="Packs", visible=False, interactive=False, elem_id=f"{prefix}-packs")
            self.status = gr.HTML("", elem_id=f"{prefix}-packed", apply_default_css=False)
        self.row: Any = row

    def connect(self, made: gr.State, chosen: gr.State) -> None:
        """Let the button pack item `chosen` of the list `made`."""

        def on_export(items: list[dict[str, Any]], index: int, names: list[str]) -> tuple[Any, Any]:
            return export_chosen(self.studio, items, index, names)

        self.export.click(
            on_export, [made, chosen, self.targets], [self.files, self.status], show_progress="minimal",
            show_progress_on=self.status, api_visibility="private",
        )  # fmt: skip

    def offered(self, items: list[dict[str, Any]], index: int) -> Any:
        """Nothing: a pack is of one result."""
        return NOTHING


class Download:
    """The file of a picture."""

    def __init__(self, studio: Studio, prefix: str, more: tuple[str, str] | None = None) -> None:
        """As of `Packs`."""
        self.studio = studio
        with gr.Row(visible=False, elem_id=f"{prefix}-after", elem_classes="z-go z-offer") as row:
            self.files: Any = gr.DownloadButton("Download", elem_id=f"{prefix}-download", min_width=120)
            self.more = None if more is None else gr.Button(more[0], elem_id=more[1], min_width=120)
        self.row: Any = row

    def connect(self, made: gr.State, chosen: gr.State) -> None:
        """Nothing to do: the browser downloads by itself."""

    def offered(self, items: list[dict[str, Any]], index: int) -> Any:
        """The copy of the chosen picture."""
        return gr.update(value=items[index]["download"])


def export_chosen(studio: Studio, items: list[dict[str, Any]], index: int, names: list[str]) -> tuple[Any, Any]:
    """The zip files of the chosen result, one per target, and a note."""
    from materials.export import export_material

    try:
        item = item_of(items, index)
        name = slug(str(item["title"])).replace("-", "_")
        name = name if name[0].isalpha() else f"m_{name}"
        made = export_material(item["folder"], names or [], studio.views.folder() / "packs", name=name, zipped=True)
    except (ZelligeError, OSError) as error:
        return NOTHING, note(studio.told(error), kind="bad")
    files = [str(file) for file in made if file.suffix == ".zip"]
    return gr.update(value=files, visible=True), ""


def item_of(items: list[dict[str, Any]], index: int) -> dict[str, Any]:
    """The item that is looked at; raises ZelligeError where there is none."""
    if not 0 <= index < len(items):
        raise ZelligeError("Expected a result to be chosen, but there is none")
    return items[index]


def checked_index(items: list[dict[str, Any]], event: gr.EventData) -> int | None:
    """The index that the browser tells, None if it is of nothing here."""
    index = getattr(event, "index", None)
    return index if isinstance(index, int) and not isinstance(index, bool) and 0 <= index < len(items) else None
