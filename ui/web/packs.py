"""The row under a preview: what the chosen result is exported for, and the packs to download."""

from __future__ import annotations

from typing import Any

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


class Packs:
    """Components: `row` is shown where there is a result; `files` are emptied when another one is chosen."""

    def __init__(self, studio: Studio, prefix: str, more: tuple[str, str]) -> None:
        """`prefix` starts the ids; `more` is the text and the id of the other button."""
        self.studio = studio
        with gr.Column(visible=False, elem_id=f"{prefix}-after", elem_classes="z-after") as self.row:
            self.targets = gr.CheckboxGroup(
                [(NAMES.get(name, name), name) for name in TARGETS], value=["gltf"], label="Export for"
            )
            with gr.Row(elem_classes="z-go"):
                self.export = gr.Button("Pack as ZIP", elem_id=f"{prefix}-export", min_width=120)
                self.more = gr.Button(more[0], elem_id=more[1], min_width=120)
            self.files = gr.File(label="Packs", visible=False, interactive=False, elem_id=f"{prefix}-packs")
            self.status = gr.HTML("", elem_id=f"{prefix}-packed", apply_default_css=False)

    def connect(self, made: gr.State, chosen: gr.State) -> None:
        """Let the button pack item `chosen` of the list `made`."""

        def on_export(items: list[dict[str, Any]], index: int, names: list[str]) -> tuple[Any, Any]:
            return export_chosen(self.studio, items, index, names)

        self.export.click(
            on_export, [made, chosen, self.targets], [self.files, self.status], show_progress="minimal",
            show_progress_on=self.status, api_visibility="private",
        )  # fmt: skip


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
