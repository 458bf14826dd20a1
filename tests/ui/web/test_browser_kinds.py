"""Image, Upscale and Photo to maps in Chromium with the shipped model, end to end."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.ui.web.conftest import PATIENCE, Site, Visit
from tests.ui.web.test_browser import _serious, drawn, expect, open_tab, spread


@pytest.fixture(scope="session")
def wall(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photo that does not tile, turned by its EXIF data as those of phones are: 72 x 96 pixels, upright."""
    rough = np.random.default_rng(3).integers(60, 200, (9, 12, 3), dtype=np.uint8)
    picture = Image.fromarray(rough).resize((96, 72), Image.Resampling.BICUBIC)
    exif = picture.getexif()
    exif[0x0112] = 6
    path = tmp_path_factory.mktemp("photo") / "wall & moss.jpg"
    picture.save(path, quality=95, exif=exif)
    return path


def give(visit: Visit, key: str, path: Path) -> None:
    visit.page.locator(f"#{key}-given input[type=file]").set_input_files(path)
    expect(visit.page.locator(f"#{key}-card figcaption")).to_contain_text("72 × 96 px")


def unfold(visit: Visit, name: str, key: str) -> Any:
    """The field with an id, in a part of the form that is folded up."""
    visit.page.get_by_role("button", name=name).locator("visible=true").click()
    field = visit.page.locator(f"#{key}").locator("input, textarea")
    field.wait_for()
    visit.page.wait_for_timeout(500)  # Gradio sets the fields of what unfolds once more
    return field


def put(visit: Visit, selector: str, value: str) -> None:
    """Fill a field of a tab that was just opened until it keeps that: Gradio sets its fields once more."""
    field = visit.page.locator(selector)
    for _ in range(10):
        field.fill(value)
        visit.page.wait_for_timeout(400)
        if field.input_value() == value:
            return
    raise AssertionError(f"{selector} does not keep {value}")


def made(visit: Visit, key: str) -> dict[str, Any]:
    """What a finished tab shows, once nothing on it is seriously hard to use."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    page = visit.page
    expect(page.locator(f"#{key}-status")).to_contain_text("Made", timeout=3 * PATIENCE)
    expect(page.locator(f"#{key}-preview .z-score")).to_be_visible()
    assert _serious(axe.Axe().run(page), key) == []
    wide = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert wide[0] <= wide[1], "the page scrolls sideways"
    rows = page.locator(f"#{key}-preview .z-facts > div").all_inner_texts()
    return dict(row.split("\n", 1) for row in rows)


def newest(site: Site, pattern: str) -> Path:
    return max(site.out.glob(pattern), key=lambda path: path.stat().st_mtime)


@pytest.mark.parametrize("visit", [(1440, "light")], indirect=True)
def test_an_image_that_tiles(visit: Visit, site: Site, tmp_path: Path) -> None:
    page = visit.page
    open_tab(visit, "Image")
    page.locator("#z-paint-prompt textarea").fill("red <b>brick</b>")
    unfold(visit, "Steps, guidance, pattern", "z-paint-steps").fill("2")
    for name, texels in (("width", "96"), ("height", "64")):
        put(visit, f"#z-paint-{name} input", texels)
    page.locator("#z-paint-go").click()
    facts = made(visit, "z-paint")
    assert facts["Size"] == "96 × 64 px" and facts["Seed"] == "0"
    look = page.locator("#z-paint-preview")
    assert look.locator(".z-title").inner_text() == "red <b>brick</b>" and look.locator(".z-title b").count() == 0
    repeats = drawn(visit, "#z-paint-preview .z-canvas:not(.z-round):not(.z-near)")
    assert spread(repeats, tmp_path) > 2
    look.get_by_role("radio", name="Picture").click()
    assert drawn(visit, "#z-paint-preview .z-near") != repeats
    expect(look.locator(".z-names")).to_be_hidden()  # it was made of nothing
    with page.expect_download() as download:
        page.locator("#z-paint-download").click()
    folder = newest(site, "2*-red-b-brick-b*")
    assert download.value.suggested_filename == "red-b-brick-b.png"
    assert Path(download.value.path()).read_bytes() == (folder / "image.png").read_bytes()
    # all of its settings come back from the file
    page.locator("#z-paint-width input").fill("512")
    page.locator("#z-paint-recall input[type=file]").set_input_files(folder / "image.png")
    expect(page.locator("#z-paint-status")).to_contain_text("All settings of image.png are back")
    expect(page.locator("#z-paint-width input")).to_have_value("96")


@pytest.mark.parametrize("visit", [(390, "dark")], indirect=True)
def test_an_image_of_a_picture_is_recalled_with_it(visit: Visit, site: Site, wall: Path) -> None:
    page = visit.page
    open_tab(visit, "Image")
    page.locator("#z-paint-prompt textarea").fill("moss")
    unfold(visit, "Start from a picture", "z-paint-strength").fill("0.5")
    give(visit, "z-paint", wall)
    expect(page.locator("#z-paint-height input")).to_have_value("96")
    assert page.locator("#z-paint-seamless input:checked").input_value() == "none"
    page.locator("#z-paint-go").click()
    assert made(visit, "z-paint")["Before"] == "72 × 96 px"
    expect(page.locator("#z-paint-preview .z-names")).to_be_visible()
    kept = Path(json.loads((newest(site, "2*-moss*") / "image.json").read_text())["request"]["image"])
    assert kept.parent == site.out / "pictures" and kept.read_bytes() == wall.read_bytes()
    page.locator("#z-paint-given").get_by_role("button", name="Clear").click()
    expect(page.locator("#z-paint-card figcaption")).to_have_count(0)
    open_tab(visit, "History")
    page.locator("#z-shelf button").filter(has_text="moss").first.click()
    expect(page.locator("#z-history-preview .z-title")).to_have_text("moss")
    page.locator("#z-history-picture-recall").click()
    expect(page.locator("#z-paint-status")).to_contain_text("are back")
    expect(page.locator("#z-paint-card figcaption")).to_contain_text("72 × 96 px")


@pytest.mark.parametrize("visit", [(1440, "dark")], indirect=True)
def test_an_enlargement(visit: Visit, site: Site, wall: Path, tmp_path: Path) -> None:
    page = visit.page
    open_tab(visit, "Upscale")
    page.locator("#z-upscale-go").click()
    expect(page.locator("#z-upscale-status [role=alert]")).to_have_text("Expected a picture, but got none.")
    give(visit, "z-upscale", wall)
    expect(page.locator("#z-upscale-will")).to_contain_text("72 × 96 becomes 144 × 192 pixels")
    unfold(visit, "Strength, steps, seed", "z-upscale-steps").fill("2")
    page.locator("#z-upscale-go").click()
    facts = made(visit, "z-upscale")
    assert facts["Size"] == "144 × 192 px" and facts["Before"] == "72 × 96 px"
    canvas = "#z-upscale-preview .z-near"
    seen = [drawn(visit, canvas)]
    assert spread(seen[0], tmp_path) > 2
    look = page.locator("#z-upscale-preview")
    for act in (
        lambda: look.get_by_label("Before | after").fill("90"),
        lambda: look.get_by_label("Zoom").fill("0.6"),
        lambda: page.locator(canvas).press("ArrowRight"),
        lambda: look.get_by_role("button", name="Actual pixels").click(),
    ):
        act()
        seen.append(drawn(visit, canvas))
    assert len(set(seen)) == len(seen) and look.locator("output").filter(has_text="100 %").count() == 1
    look.get_by_role("button", name="Fit").click()
    look.get_by_label("Before | after").fill("50")
    assert drawn(visit, canvas) == seen[0]
    assert (newest(site, "2*-upscale*") / "image.png").is_file()


@pytest.mark.parametrize("visit", [(1440, "light")], indirect=True)
def test_maps_of_a_photo_that_is_made_to_tile(visit: Visit, site: Site, wall: Path, tmp_path: Path) -> None:
    page = visit.page
    open_tab(visit, "Photo to maps")
    (tmp_path / "page.png").write_text("<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>")
    page.locator("#z-photo-given input[type=file]").set_input_files(tmp_path / "page.png")
    expect(page.locator("#z-photo-card [role=alert]")).to_contain_text("but page.png is none")
    page.locator("#z-photo-given").get_by_role("button", name="Clear").click()
    give(visit, "z-photo", wall)
    page.locator("#z-photo-go").click()
    facts = made(visit, "z-photo")
    assert facts["Untouched"].endswith(" % of the photo") and facts["Size"] != "72 × 96 px"
    look = page.locator("#z-photo-preview")
    was = [float(text) for text in look.locator(".z-was").all_inner_texts()]
    now = [float(text) for text in look.locator(".z-meter > .z-number:last-child").all_inner_texts()]
    assert len(was) == len(now) == 3 and min(now) > 0.3 and was[0] < now[0]
    tile, solid = "#z-photo-preview .z-canvas:not(.z-round):not(.z-near)", "#z-photo-preview .z-round"
    seen = [drawn(visit, tile)]
    for name in ("Photo", "Normal"):
        look.get_by_role("button", name=name, exact=True).click()
        page.wait_for_timeout(300)
        seen.append(drawn(visit, tile))
    assert len(set(seen)) == 3 and spread(drawn(visit, solid), tmp_path) > 5
    page.locator("#z-photo-export").click()
    link = page.locator("#z-photo-packs a[download]").first
    link.wait_for()
    with page.expect_download() as download:
        link.click()
    with zipfile.ZipFile(download.value.path()) as archive:
        assert any(name.endswith((".gltf", ".glb")) for name in archive.namelist())
    assert (newest(site, "2*-maps*") / "material.json").is_file()
