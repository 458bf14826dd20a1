"""Images, enlargements and maps of photos by the page's handlers, with a tiny model."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from asd.errors import ZelligeError
from tests import tiny
from ui.jobs import _load, run_job
from ui.line import Line
from ui.models import Models
from ui.request import Request
from ui.web import batch, forms, given, history, image, making, photo, upscale
from ui.web.limits import Limits
from ui.web.page import Filled
from ui.web.work import Studio

MODULES: Any = {"material": forms, "image": image, "upscale": upscale, "maps": photo}
NOTES: Any = None
FORMS: Any = {kind: Filled(kind, [None] * module.FIELDS, NOTES, module.fill) for kind, module in MODULES.items()}
PAINTED = Request(kind="image", prompt="red <b>brick</b>", size=(64, 48), steps=1, seed=2**62)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tiny.checkpoint(tmp_path_factory.mktemp("tiny"))
    made = _load(str(folder), "cpu")
    return Models(lambda _name: made)


@pytest.fixture
def studio(tmp_path: Path, model: Models) -> Iterator[Studio]:
    with warnings.catch_warnings():
        # diffusers' schedulers hand numpy 2 a tensor
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        made = Studio(out=tmp_path / "out", models=model, line=Line(places=16))
        yield made
        made.line.close()


@pytest.fixture
def wall(tmp_path: Path) -> str:
    """An upload that does not tile."""
    rough = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(rough).resize((64, 48), Image.Resampling.BICUBIC).save(tmp_path / "wall.jpg", quality=95)
    return str(tmp_path / "wall.jpg")


def end(steps: Iterator[tuple[Any, ...]]) -> tuple[Any, ...]:
    *_, last = steps
    return last


def make(studio: Studio, request: Request) -> tuple[str, Any, dict[str, Any]]:
    """The note, what the browser is told, and the first result."""
    module = MODULES[request.kind]
    told = end(making.make(studio, "me", lambda: module.request(module.fill(request))))
    assert told[2] is not None and "Made" in told[0], told[0]
    return told[0], json.loads(told[1])["items"][0], told[2][0]


def test_forms_and_requests_are_the_same(wall: str) -> None:
    for request in (
        PAINTED,
        Request(kind="image", prompt="oak", size=(64, 48), image=wall, mask=wall, strength=0.25, negative="moss"),
        Request(kind="image", prompt="oak", seamless="y", count=3, guidance=0.1 + 0.2, scale=0.5),
        Request(kind="upscale", image=wall, size=(128, 96)),
        Request(kind="upscale", image=wall, size=(77, 66), seamless="x", prompt="oak", strength=0.5, steps=3,
                guidance=2.5, negative="moss", seed=7),
        Request(kind="maps", image=wall, seamless="xy"),
        Request(kind="maps", image=wall, size=(33, 44), height_format="exr"),
    ):  # fmt: skip
        module = MODULES[request.kind]
        assert len(module.fill(request)) == module.FIELDS
        assert module.request(module.fill(request)) == request


def test_an_image_of_a_prompt_and_of_a_picture(studio: Studio, wall: str, tmp_path: Path) -> None:
    text, shown, item = make(studio, PAINTED)
    assert shown["kind"] == "picture" and shown["axes"] == "xy" and set(shown["maps"]) == {"picture", "seam"}
    assert shown["title"] == PAINTED.prompt and shown["seed"] == str(2**62) and "<b>" not in text
    assert not {"folder", "download"} & set(shown)
    run_job(PAINTED, tmp_path / "alone", studio.models(None))
    for path in (tmp_path / "alone").iterdir():  # as the command makes it
        assert path.read_bytes() == (Path(item["folder"]) / path.name).read_bytes(), path.name
    offered = Path(item["download"])
    assert offered.is_relative_to(studio.views.root) and offered.name == "red-b-brick-b.png"
    _, shown, item = make(studio, Request(kind="image", prompt="moss", size=(64, 48), image=wall, strength=0.5, steps=1,
                                          seamless="none"))  # fmt: skip
    assert shown["score"] is None and set(shown["maps"]) == {"picture", "before"}
    kept = Path(json.loads((Path(item["folder"]) / "image.json").read_text())["request"]["image"])
    assert kept.parent == studio.out / "pictures" and kept.read_bytes() == Path(wall).read_bytes()


def test_an_enlargement(studio: Studio, wall: str) -> None:
    _, shown, item = make(studio, Request(kind="upscale", image=wall, size=(128, 96), steps=1))
    assert shown["size"] == [128, 96] and ["Before", "64 × 48 px"] in shown["facts"] and "before" in shown["maps"]
    assert shown["title"] == "Enlargement"
    with Image.open(item["download"]) as picture:
        assert picture.size == (128, 96)


def test_an_enlargement_that_is_stopped_leaves_nothing(studio: Studio, wall: str) -> None:
    values = upscale.fill(Request(kind="upscale", image=wall, size=(128, 96), steps=30))
    told: tuple[Any, ...] = ()
    for told in making.make(studio, "me", lambda: upscale.request(values)):
        if "step 2 of" in told[0].lower():
            studio.line.stop("me")
    assert "Stopped; nothing was kept." in told[0]
    assert [path.name for path in studio.out.iterdir()] == ["pictures"]


def test_maps_of_a_photo_that_is_made_to_tile(studio: Studio, wall: str) -> None:
    _, shown, item = make(studio, Request(kind="maps", image=wall, seamless="xy"))
    assert {"basecolor", "normal", "height", "roughness", "metallic", "ao", "photo"} <= set(shown["maps"])
    assert set(shown["before"]) == {"both", "x", "y"} and 0 <= shown["before"]["both"] <= 1
    assert shown["facts"][0][0] == "Untouched" and shown["size"][0] < 64
    told = json.loads((Path(item["folder"]) / "material.json").read_text())
    assert told["remade"]["score_before"] <= told["remade"]["score_after"]


@pytest.mark.parametrize(
    ("kind", "place", "value", "message"),
    [
        ("image", 0, "", "Expected prompt to say what to make"), ("image", 1, 1.5, "width to be a whole number"),
        ("image", 4, "x", "seed to be a whole number"), ("image", 5, 17, "at most 16 samples at once, but got 17"),
        ("image", 6, "NOTE", "Expected an image (PNG, JPEG, WEBP), but note.png is none"),
        ("image", 7, "1.5", "strength"), ("image", 8, "NOTE", "note.png is none"),
        ("image", 12, "a\x00b", "plain text"),
        ("upscale", 0, None, "Expected a picture, but got none"), ("upscale", 0, "NOTE", "note.png is none"),
        ("upscale", 0, "/etc/passwd", "passwd is none"), ("upscale", 1, "9", "to enlarge 2, 3 or 4 times"),
        ("upscale", 1, "nan", "Expected enlarge to be a number"), ("upscale", 2, 3, "but got 3x96"),
        ("upscale", 2, -200, "but got -200x96"), ("upscale", 4, "z", "none or x or y or xy"),
        ("maps", 0, None, "Expected a photo, but got none"), ("maps", 0, "NOTE", "note.png is none"),
        ("maps", 1, "z", "auto or none or x or y or xy"), ("maps", 2, "64", "width and height or neither"),
        ("maps", 4, "tiff", "png16 or exr"),
    ],
)  # fmt: skip
def test_bad_values_are_one_sentence(
    studio: Studio, wall: str, tmp_path: Path, kind: str, place: int, value: Any, message: str
) -> None:
    (tmp_path / "note.png").write_text("<svg onload=alert(1)>")
    start = {"image": Request(kind="image", prompt="oak", size=(64, 48), image=wall, seamless="none"),
             "upscale": Request(kind="upscale", image=wall, size=(128, 96)),
             "maps": Request(kind="maps", image=wall)}  # fmt: skip
    module = MODULES[kind]
    values = module.fill(start[kind])
    values[place] = str(tmp_path / "note.png") if value == "NOTE" else value
    (told,) = making.make(studio, "me", lambda: module.request(values))
    assert message in told[0] and 'role="alert"' in told[0] and str(tmp_path) not in told[0]
    assert not studio.out.exists()


def test_limits_hold_for_what_is_made_and_what_is_given(studio: Studio, wall: str) -> None:
    limits = Limits(pixels=64 * 48, count=2, steps=5)
    for request, message in (
        (Request(prompt="oak", size=(65, 48)), "at most 3072 pixels here, but got 65x48"),
        (Request(kind="upscale", image=wall, size=(128, 96)), "at most 3072 pixels here, but got 128x96"),
        (Request(prompt="oak", size=(8, 8), count=3), "count of at most 2 here, but got 3"),
        (Request(prompt="oak", size=(8, 8), steps=6), "steps of at most 5 here, but got 6"),
    ):
        with pytest.raises(ZelligeError, match=message):
            limits.check(request)
    limits.check(Request(kind="maps", image=wall))
    with pytest.raises(ZelligeError, match=r"million pixels, but wall\.jpg has 64x48"):
        Limits(pixels=10).check(Request(kind="maps", image=wall))


def test_history_shows_and_recalls_each_kind(studio: Studio, wall: str) -> None:
    requests = [PAINTED, Request(kind="upscale", image=wall, size=(128, 96), steps=1), Request(kind="maps", image=wall)]
    for request in requests:
        make(studio, request)
    _, shown, folders, *_ = history.list_results(studio, 9)
    assert {card["title"] for card in json.loads(shown)} == {PAINTED.prompt, "Enlargement", "Maps of a photo"}
    for index in range(len(folders)):
        event: Any = type("Event", (), {"index": index})()
        _, shown, items, packs, _, picture, download = history.open_result(studio, folders, event)
        maps = json.loads(shown)["items"][0]["kind"] == "material"
        assert (packs["visible"], picture["visible"], download["value"] is None) == (maps, not maps, maps)
        told = list(history.recall(studio, FORMS, items, 0))
        manifest = Path(folders[index]) / ("material.json" if maps else "image.json")
        kind = json.loads(manifest.read_text())["request"]["kind"]
        before = list(MODULES)[: list(MODULES).index(kind)]
        start = sum(MODULES[name].FIELDS + 1 for name in before)
        values = told[start : start + MODULES[kind].FIELDS]
        again = MODULES[kind].request(values)
        (asked,) = [request for request in requests if request.kind == kind]
        if asked.image is not None:  # a copy that the browser may hand in again
            assert Path(str(again.image)).is_relative_to(studio.views.root)
            assert Path(str(again.image)).read_bytes() == Path(wall).read_bytes()
        assert "are back" in told[start + MODULES[kind].FIELDS]


def test_rows_of_a_batch_name_pictures_that_are_given(studio: Studio, wall: str, tmp_path: Path) -> None:
    rows = [{"id": "m", "kind": "maps", "image": "wall.jpg", "seamless": "x"},
            {"id": "u", "kind": "upscale", "image": "wall.jpg", "size": "96x72", "steps": 1}]  # fmt: skip
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = batch.dry_run(studio, str(file), "", False)[0]
    assert "Line 1: Expected no image, since the page reads no files of the server" in told and "Line 2" in told
    assert "Every row is fit to be made" in batch.dry_run(studio, str(file), "", False, [wall])[0]
    assert "2 made, 0 whole already, 0 failed" in end(batch.run(studio, "me", str(file), "", False, [wall]))[0]
    assert (studio.out / "batches" / "rows" / "u" / "image.png").is_file()
    assert "Every row is whole already" in batch.dry_run(studio, str(file), "", False, [wall])[0]
    for name in ("../wall.jpg", wall, "/etc/passwd"):
        file.write_text(json.dumps(rows[0] | {"image": name}) + "\n")
        assert "no files of the server" in batch.dry_run(studio, str(file), "", False, [wall])[0]


def test_what_is_given_is_shown_as_what_it_is(wall: str, tmp_path: Path) -> None:
    turned = tmp_path / "<b>turned.jpg"
    with Image.open(wall) as picture:
        exif = picture.getexif()
        exif[0x0112] = 6
        picture.save(turned, exif=exif)
    markup = given.on_card(str(turned))
    assert "48 × 64 px" in markup and "&lt;b&gt;turned.jpg" in markup and 'src="data:image/webp;base64,' in markup
    assert given.on_card(None) == "" and image.on_given(None) == image.on_given(str(tmp_path / "absent"))
    assert image.on_given(str(turned)) == (48, 64, "none")
    (tmp_path / "a.png").write_text("<svg/>")
    assert 'role="alert"' in given.on_card(str(tmp_path / "a.png"))
    own, told = upscale.on_size(wall, "3", None, None)
    assert told == "64 × 48 becomes 192 × 144 pixels." and not own["visible"]
    assert "at least the picture" in upscale.on_size(wall, "size", 8, 8)[1]
