from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from materials.png import read_png, write_png
from tests.ui.conftest import PlainPipeline, hidden
from ui.jobs import run_job
from ui.request import MAX_SEED, Request
from ui.web import batch, forms, history, image, making, material, packs, photo, score, shelf, upscale
from ui.web.page import Filled
from ui.web.work import Studio

PLAIN = Request(prompt="oak", size=(24, 16), seed=3, steps=2)
WIDTHS = {"material": forms.FIELDS, "image": image.FIELDS, "upscale": upscale.FIELDS, "maps": photo.FIELDS}
NOTES: Any = None
FORMS: Any = {
    kind: Filled(kind, [None] * WIDTHS[kind], NOTES, module.fill)
    for kind, module in (("material", forms), ("image", image), ("upscale", upscale), ("maps", photo))
}
SCRIPT = "<img src=x onerror=alert(1)><script>alert(1)</script>"


def values(**changes: Any) -> list[Any]:
    """What the form hands over for PLAIN, with changes by place."""
    made = forms.fill(PLAIN)
    names = ["prompt", "width", "height", "seamless", "seed", "count", "steps", "guidance", "scale", "refine"]
    names += ["height_format", "roughness", "metallic", "height_lock", "colour", "basecolor_file", "normal_file"]
    names += ["height_file"]
    for name, value in changes.items():
        made[names.index(name)] = value
    return made


def end(steps: Iterator[tuple[Any, ...]]) -> tuple[Any, ...]:
    *_, last = steps
    return last


def event(**data: Any) -> Any:
    return SimpleNamespace(**data)


def test_a_material_from_click_to_preview(studio: Studio) -> None:
    steps = list(material.make(studio, "me", values(count=2.0)))
    assert "Starting" in steps[0][0] or "Loading" in steps[0][0]
    text, shown, items, chosen, row, _, go, stop = steps[-1]
    assert "Made 2, the best first, in " in text and chosen == 0 and row["visible"]
    assert go["interactive"] and not stop["interactive"]
    told = json.loads(shown)["items"]
    assert [set(item) & {"folder"} for item in told] == [set(), set()]
    assert {item["seed"] for item in told} == {"3", "4"}
    assert told[0]["score"]["both"] >= told[1]["score"]["both"]
    assert set(told[0]["maps"]) == {"lit", "basecolor", "normal", "height", "roughness", "metallic", "ao", "seam"}
    for address in told[0]["maps"].values():
        path = Path(address.removeprefix("/gradio_api/file="))
        assert path.is_relative_to(studio.views.root)
        with Image.open(path) as image:
            assert image.mode == "RGB" and "gamma" not in image.info and "icc_profile" not in image.info
    assert Path(items[0]["folder"]).is_relative_to(studio.out)


def test_the_page_makes_what_the_command_makes(studio: Studio, tmp_path: Path) -> None:
    items = end(material.make(studio, "me", values(roughness=".25", colour="#102030")))[2]
    request = Request(
        prompt="oak", size=(24, 16), seed=3, steps=2, lock=(("basecolor", "#102030"), ("roughness", 0.25))
    )
    run_job(request, tmp_path / "alone", PlainPipeline())
    for path in (tmp_path / "alone").iterdir():
        assert path.read_bytes() == (Path(items[0]["folder"]) / path.name).read_bytes(), path.name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": ""}, "Expected prompt to say what to make"),
        ({"prompt": None}, "Expected prompt to be text"),
        ({"prompt": "x" * 2001}, "at most 2000 characters"),
        ({"prompt": "a\x00b"}, "plain text"),
        ({"width": None}, "width to be a whole number, but got nothing"),
        ({"width": 12.5}, "width to be a whole number, but got 12.5"),
        ({"width": 0}, "1 to 1048576 pixels, but got 0x16"),
        ({"width": 10**6, "height": 10**6}, "takes about 1.6 PB"),
        ({"height": -8.0}, "1 to 1048576 pixels"),
        ({"width": 1e300}, "1 to 1048576 pixels"),
        ({"width": float("nan")}, "whole number"),
        ({"seamless": "z"}, "none or x or y or xy"),
        ({"seamless": None}, "none or x or y or xy"),
        ({"seed": ""}, "seed to be a whole number, but got nothing"),
        ({"seed": "-1"}, "seed to be a whole number, but got -1"),
        ({"seed": "1e9"}, "seed to be a whole number"),
        ({"seed": "9" * 19}, "seed to be a whole number from 0"),
        ({"count": 0}, "count to be a whole number from 1"),
        ({"count": 17}, "at most 16 samples at once"),
        ({"steps": "0"}, "steps to be a whole number"),
        ({"steps": "2.5"}, "steps to be a whole number"),
        ({"steps": "1e3"}, "steps to be a number or empty, but got 1e3"),
        ({"guidance": "nan"}, "guidance to be a number or empty"),
        ({"guidance": "-1"}, "guidance to be a number from 0 to 100"),
        ({"scale": "1.5"}, "scale to be a number from 0 to 1"),
        ({"roughness": "2"}, "locked roughness to be 0 to 1"),
        ({"colour": "brown"}, "kept basecolor to be a colour"),
        ({"colour": "/etc/passwd"}, "kept basecolor to be a colour"),
        ({"height_format": "tiff"}, "png16 or exr"),
        ({"prompt": SCRIPT, "size": "x"}, ""),
    ],
)
def test_bad_input_is_one_sentence(studio: Studio, changes: dict[str, Any], message: str) -> None:
    changes.pop("size", None)
    if not message:
        changes["steps"] = SCRIPT
        message = "a number or empty"
    told = end(material.make(studio, "me", values(**changes)))
    assert message in told[0] and told[0].startswith('<p class="z-note z-bad" role="alert">Expected ')
    assert "<script" not in told[0] and told[0].count("<") == 2
    assert not studio.out.exists()


def test_seeds_beyond_a_browser_s_numbers(studio: Studio) -> None:
    items = end(material.make(studio, "me", values(seed=str(MAX_SEED))))[2]
    assert items[0]["seed"] == str(MAX_SEED)
    assert making.same_seed(items, 0) == (str(MAX_SEED), 1)


def test_an_error_of_the_system_names_no_place(studio: Studio) -> None:
    studio.out.parent.mkdir(exist_ok=True)
    studio.out.write_text("a file in the way")
    told = end(material.make(studio, "me", values()))
    assert 'role="alert"' in told[0] and told[-2]["interactive"]


def test_stop_really_stops(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    class Slow(PlainPipeline):
        def __call__(self, prompt: str, **options: Any) -> Any:
            def tell(step: int, steps: int) -> None:
                seen.append(step)
                time.sleep(0.02)
                options["callback"](step, steps)

            given: Any = options | {"callback": tell}
            return super().__call__(prompt, **given)

    slow = Slow()
    monkeypatch.setattr("ui.jobs._load", lambda model, device: slow)
    told: tuple[Any, ...] = ()
    for told in material.make(studio, "me", values(steps="900")):
        if "step 3 of" in told[0].lower():
            assert studio.line.stop("me") == 1
    assert "Stopped; nothing was kept." in told[0] and told[-2]["interactive"]
    assert 3 <= len(seen) < 60
    assert not studio.out.exists() or list(studio.out.iterdir()) == []
    assert end(material.make(studio, "me", values()))[2] != []  # and the next one runs


def test_stop_keeps_the_samples_that_are_whole(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopping(PlainPipeline):
        def __call__(self, prompt: str, **options: Any) -> Any:
            if len(self.calls) == 2:
                studio.line.stop("me")
            return super().__call__(prompt, **options)

    stopping = Stopping()
    monkeypatch.setattr("ui.jobs._load", lambda model, device: stopping)
    text, _, items, *_ = end(material.make(studio, "me", values(count=4)))
    assert "Stopped: 2 of 4 were made" in text
    assert len(items) == 2 and hidden(studio.out) == []


def test_images_to_keep_are_copied_by_content(studio: Studio, tmp_path: Path) -> None:
    image = write_png(tmp_path / "up load.png", np.full((1, 16, 24), 9, np.uint8), colour="linear")
    items = end(material.make(studio, "me", values(height_file=str(image))))[2]
    told = json.loads((Path(items[0]["folder"]) / "material.json").read_text())
    kept = Path(told["request"]["lock"]["height"])
    assert kept.parent == studio.out / "kept-maps" and kept.read_bytes() == image.read_bytes()
    for name, text in (("a.svg", "<svg/>"), ("a.png", "<html>")):
        (tmp_path / name).write_text(text)
        (refused,) = material.make(studio, "me", values(height_file=str(tmp_path / name)))
        assert "Expected an image (PNG, JPEG, WEBP), but" in refused[0] and str(tmp_path) not in refused[0]


def test_recall_fills_the_form(studio: Studio) -> None:
    items = end(material.make(studio, "me", values(scale="0.5")))[2]
    for name in ("basecolor", "normal", "height", "ao", "preview", "tiled"):
        told = material.recall(str(Path(items[0]["folder"]) / f"{name}.png"))
        assert list(told[: forms.FIELDS]) == values(scale="0.5")
        assert "are back" in told[-2] and told[-1] is None


def test_recall_of_something_else(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    told = material.recall(str(tmp_path / "plain.png"))
    assert "a PNG that zellige wrote, with its settings in it, but plain.png has none" in told[-2]
    assert len(told) == forms.FIELDS + 2 and str(tmp_path) not in told[-2]
    assert len(material.recall(None)) == forms.FIELDS + 2


def test_scripts_in_prompts_stay_text(studio: Studio) -> None:
    text, shown, items, *_ = end(material.make(studio, "me", values(prompt=SCRIPT)))
    assert "<script" not in text and json.loads(shown)["items"][0]["title"] == SCRIPT
    told = material.recall(str(Path(items[0]["folder"]) / "ao.png"))
    assert told[0] == SCRIPT and "<script" not in told[-2]


@pytest.mark.parametrize("index", [-1, 7, None, "0", 1.5, True, [0], 10**30])
def test_indices_from_the_browser_are_checked(index: Any) -> None:
    assert packs.checked_index([{"a": 1}, {"a": 2}], event(index=index)) is None
    assert packs.checked_index([{"a": 1}], event()) is None
    assert packs.checked_index([{"a": 1}], event(index=0)) == 0


def test_packs(studio: Studio) -> None:
    items = end(material.make(studio, "me", values()))[2]
    files, text = packs.export_chosen(studio, items, 0, ["gltf", "unreal"])
    assert text == "" and len(files["value"]) == 2
    assert all(Path(file).is_relative_to(studio.views.root) and file.endswith(".zip") for file in files["value"])
    for names, index, message in (
        ([], 0, "but got none"),
        (["../x"], 0, "among gltf"),
        (["gltf"], 5, "a result to be chosen"),
    ):
        files, text = packs.export_chosen(studio, items, index, names)
        assert message in text and not files["visible"]
    with pytest.raises(gr.Error, match="a result to be chosen"):
        making.same_seed([], 0)


def test_scores(studio: Studio, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ramp = np.broadcast_to(np.arange(96, dtype=np.uint8) * 2, (3, 96, 96))
    noise = rng.integers(0, 255, (3, 96, 96), dtype=np.uint8)
    paths = [write_png(tmp_path / f"{name}.png", np.ascontiguousarray(pixels), colour="srgb")
             for name, pixels in (("ramp", ramp), ("<b>noise", noise))]  # fmt: skip
    (tmp_path / "bad.svg").write_text("<svg onload=alert(1)>")
    text, table, shown, *_ = end(score.score(studio, "me", [str(path) for path in [*paths, tmp_path / "bad.svg"]]))
    assert "2 scored" in text and "bad.svg is none" in text and str(tmp_path) not in text
    assert "&lt;b&gt;noise.png" in table and "<b>" not in table and "seam on x" in table
    told = json.loads(shown)["items"]
    assert told[0]["score"]["both"] >= told[1]["score"]["both"] and told[0]["kind"] == "image"
    assert set(told[0]["maps"]) == {"basecolor", "seam"}
    for files, message in (([], "Expected one or more images"), (["x"] * 65, "at most 64 images")):
        (told,) = score.score(studio, "me", files)
        assert message in told[0]


ROWS = '{"id": "r1", "prompt": "oak", "size": "24x16", "steps": 2}\n{"id": "r2", "prompt": "elm", "size": "8x8"}\n'


def manifest(tmp_path: Path, text: str = ROWS, name: str = "Walls & more.jsonl") -> str:
    (tmp_path / name).write_text(text)
    return str(tmp_path / name)


def test_a_batch_from_check_to_zip(studio: Studio, tmp_path: Path) -> None:
    import zipfile

    file = manifest(tmp_path)
    text, table = batch.dry_run(studio, file, "", False)
    assert "Every row is fit to be made" in text and "<td>2</td>" in table and not studio.out.exists()
    text, *_, go, _, shown, folders = end(batch.run(studio, "me", file, "", False))
    assert len(json.loads(shown)) == len(folders) == 2
    looked = json.loads(batch.look_at(studio, folders, event(index=1))[1])["items"][0]
    assert looked["title"] in ("oak", "elm") and "folder" not in looked
    assert "2 made, 0 whole already, 0 failed" in text and go["interactive"]
    folder = studio.out / "batches" / "walls-more"
    assert (folder / "r1" / "material.json").is_file() and hidden(folder / "r1") == []
    assert "2 whole already" in end(batch.run(studio, "me", file, "walls more", False))[0]
    packed, text = batch.pack_all(studio, file, "")
    with zipfile.ZipFile(packed["value"]) as archive:
        names = archive.namelist()
    assert "walls-more/r2/basecolor.png" in names and all(name.startswith("walls-more/") for name in names)
    assert not any(part.startswith(".") for name in names for part in name.split("/"))


def test_a_batch_that_is_stopped_goes_on(studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopping(PlainPipeline):
        def __call__(self, prompt: str, **options: Any) -> Any:
            if len(self.calls) == 1:
                studio.line.stop("me")
            return super().__call__(prompt, **options)

    stopping = Stopping()
    monkeypatch.setattr("ui.jobs._load", lambda model, device: stopping)
    file = manifest(tmp_path)
    told = end(batch.run(studio, "me", file, "", False))
    assert "Stopped: 1 made, 0 whole already, 0 failed, 1 to do; Run goes on from there." in told[0]
    assert "0 failed" in end(batch.run(studio, "me", file, "", False))[0]
    assert (studio.out / "batches" / "walls-more" / "r2" / "material.json").is_file()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Line 1: Expected at least one row"),
        ("no json", "Line 1: Expected a JSON object"),
        ('{"id": "../x", "prompt": "oak"}', "Line 1: Expected id to be 1 to 100 letters"),
        ('{"id": "r1", "prompt": "oak", "model": "evil/model"}', "Expected no model"),
        ('{"id": "r1", "prompt": "oak", "lock": {"height": "/etc/passwd"}}', "no files of the server, but got a path"),
        ('\n{"id": "r1", "prompt": "<script>alert(1)</script>", "x": 1}', "Line 2: Expected only the keys"),
        ('{"id": "r1", "prompt": "oak", "size": "1000000x1000000"}', "takes about 1.6 PB"),
    ],
)
def test_a_bad_manifest(studio: Studio, tmp_path: Path, text: str, message: str) -> None:
    file = manifest(tmp_path, text)
    for told in (batch.dry_run(studio, file, "", False)[0], end(batch.run(studio, "me", file, "", False))[0]):
        assert message in told and "<script" not in told and str(tmp_path) not in told
    assert not studio.out.exists()


def test_a_manifest_of_a_thousand_faults_is_cut(studio: Studio, tmp_path: Path) -> None:
    told = batch.dry_run(studio, manifest(tmp_path, "no json\n" * 1000), "", False)[0]
    assert told.count("<p ") == 21 and "And 980 more" in told


def test_no_manifest_and_no_batch(studio: Studio, tmp_path: Path) -> None:
    assert "Expected a manifest, but got none" in batch.dry_run(studio, None, "", False)[0]
    assert "Expected a manifest, but got none" in end(batch.run(studio, "me", None, "", False))[0]
    assert "Expected a manifest" in batch.pack_all(studio, None, "")[1]
    assert "but there is none" in batch.pack_all(studio, manifest(tmp_path), "../../..")[1]
    assert "Expected a manifest that ends in" in batch.dry_run(studio, manifest(tmp_path, name="a.exe"), "", False)[0]


def test_a_changed_row_names_the_box(studio: Studio, tmp_path: Path) -> None:
    file = manifest(tmp_path)
    end(batch.run(studio, "me", file, "", False))
    changed = manifest(tmp_path, ROWS.replace("elm", "ash"))
    assert "“Make changed rows anew” makes it anew" in batch.dry_run(studio, changed, "", False)[0]
    assert "1 made, 1 whole already" in end(batch.run(studio, "me", changed, "", True))[0]


def test_history_lists_opens_and_recalls(studio: Studio, tmp_path: Path) -> None:
    end(material.make(studio, "me", values(prompt=SCRIPT, count=2)))
    end(batch.run(studio, "me", manifest(tmp_path), "", False))
    text, shown, folders, count, more = history.list_results(studio, 3)
    cards = json.loads(shown)
    assert text == "" and len(cards) == len(folders) == count == 3 and more["visible"]
    _, shown, folders, *_ = history.list_results(studio, 24)
    cards = json.loads(shown)
    assert len(cards) == 4 and SCRIPT in {card["title"] for card in cards}
    assert all(set(card) == {"title", "when", "image"} for card in cards)
    place = next(i for i, card in enumerate(cards) if card["title"] == SCRIPT)
    _, shown, items, row, *_ = history.open_result(studio, folders, event(index=place))
    assert row["visible"] and json.loads(shown)["items"][0]["title"] == SCRIPT
    told = history.recall(studio, FORMS, items, 0)
    assert told[0] == SCRIPT and "All settings of 000" in told[forms.FIELDS]
    assert len(told) == sum(WIDTHS.values()) + len(WIDTHS) + 2
    assert "a result to be chosen" in history.recall(studio, FORMS, [], 0)[-2]


def test_history_stays_in_its_folder(studio: Studio, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    run_job(PLAIN, outside, PlainPipeline())
    studio.out.mkdir()
    (studio.out / "link").symlink_to(outside)
    run_job(PLAIN, studio.out / ".hidden", PlainPipeline())
    run_job(PLAIN, studio.out / "a", PlainPipeline())
    assert shelf.find_results(studio.out) == [studio.out / "a"]
    for index in (-1, 1, "../outside", None, [0]):
        assert isinstance(
            history.open_result(studio, [str(studio.out / "a")], event(index=index))[1], dict
        )  # gr.skip()
    # a result edited by hand does not reach out of its folder either
    told = json.loads((studio.out / "a" / "material.json").read_text())
    told["maps"]["normal"]["file"] = "../../outside/normal.png"
    told["maps"]["roughness"]["file"] = str(outside / "roughness.png")
    told["maps"]["ao"] = 7
    (studio.out / "a" / "material.json").write_text(json.dumps(told))
    (studio.out / "a" / "metallic.png").unlink()
    (studio.out / "a" / "metallic.png").symlink_to(outside / "metallic.png")
    assert (
        {"basecolor", "height"}
        <= set(studio.views.result(studio.out / "a")["maps"])
        <= {"basecolor", "height", "lit", "seam"}
    )


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"maps": 7}', "[" * 100_000, '{"maps": {}, "request": 7, "size_m": "x"}']
)
def test_damaged_results_are_left_out_or_a_sentence(studio: Studio, text: str) -> None:
    run_job(PLAIN, studio.out / "a", PlainPipeline())
    (studio.out / "a" / "material.json").write_text(text)
    (studio.out / "a" / "basecolor.png").write_bytes(b"<svg/>")
    (studio.out / "a" / "preview.png").write_bytes(b"<svg/>")
    assert json.loads(history.list_results(studio, 9)[1]) == []
    told = history.open_result(studio, [str(studio.out / "a")], event(index=0))
    assert 'role="alert"' in told[0] and str(studio.out) not in told[0]


def test_an_empty_history(studio: Studio) -> None:
    text, shown, folders, _, more = history.list_results(studio, 24)
    assert "Nothing is here yet" in text and shown == "[]" and folders == [] and not more["visible"]


def test_views_are_8_bit_and_forget_the_oldest(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    run_job(Request(prompt="oak", size=(24, 16), height_format="exr"), studio.out / "a", PlainPipeline())
    monkeypatch.setattr("ui.web.views.KEPT", 2)
    made = [studio.views.result(studio.out / "a")["maps"] for _ in range(3)]
    files = [Path(maps["height"].removeprefix("/gradio_api/file=")) for maps in made]
    assert [file.exists() for file in files] == [False, True, True]
    with Image.open(files[2]) as image:
        assert image.size == (24, 16) and image.mode == "RGB"
    normal = Path(made[2]["normal"].removeprefix("/gradio_api/file="))
    full = read_png(studio.out / "a" / "normal.png").pixels
    assert np.abs(read_png(normal).pixels.astype(int) - np.rint(full / 257)).max() <= 1
