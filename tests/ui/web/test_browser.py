"""The page in Chromium with the shipped model: every tab end to end, no way out, nothing axe calls serious."""

from __future__ import annotations

import json
import os
import re
import zipfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

from materials.png import read_png, write_png
from tests.ui.web.conftest import Site, Visit, watch
from ui import cli

UPWARDS = """(() => {
  const all = [];
  for (let e = document.activeElement; e; e = e.parentElement) if (e.id) all.push(e.id);
  return all;
})()"""
WIDE, NARROW = 1440, 390


def expect(locator: Any) -> Any:
    from playwright.sync_api import expect as expected

    return expected(locator)


def ask(visit: Visit, prompt: str, *, side: int = 128, steps: int = 2, seed: int = 7, count: int = 1) -> None:
    page = visit.page
    open_tab(visit, "Material")
    page.get_by_label("Prompt", exact=True).locator("visible=true").fill(prompt)
    page.get_by_label("Width, px").locator("visible=true").fill(str(side))
    page.get_by_label("Height, px").locator("visible=true").fill(str(side))
    page.get_by_label("Seed", exact=True).locator("visible=true").fill(str(seed))
    page.get_by_label("Best of").locator("visible=true").fill(str(count))
    field = page.get_by_label("Steps", exact=True).locator("visible=true")
    if not field.is_visible():
        page.get_by_role("button", name="Steps, guidance, pattern").click()
        field.wait_for()
        page.wait_for_timeout(500)  # Gradio sets the fields of what unfolds once more
    field.fill(str(steps))
    field.press("Tab")
    expect(field).to_have_value(str(steps))
    page.get_by_role("button", name="Make", exact=True).click()


def open_tab(visit: Visit, name: str) -> None:
    """Narrow screens keep some tabs in a menu."""
    page = visit.page
    if not page.get_by_role("tab", name=name, exact=True).count():
        page.get_by_role("button", name="More tabs").click()
        page.locator(".overflow-dropdown").get_by_role("button", name=name, exact=True).click()
    page.get_by_role("tab", name=name, exact=True).click()


def made(visit: Visit) -> None:
    expect(visit.page.locator("#z-status")).to_contain_text("Made")
    expect(visit.page.locator("#z-preview .z-score")).to_be_visible()


def drawn(visit: Visit, canvas: str) -> bytes:
    """A picture of a canvas once it has been painted."""
    visit.page.wait_for_function(
        "(selector) => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => "
        "done(Boolean(document.querySelector(selector).dataset.drawn)))))",
        arg=canvas,
    )
    return visit.page.locator(canvas).screenshot()


def spread(picture: bytes, folder: Path) -> float:
    (folder / "canvas.png").write_bytes(picture)
    return float(read_png(folder / "canvas.png").pixels.std())


@pytest.fixture(scope="session")
def first(site: Site) -> Path:
    """A result in the folder before any page is open, made by the command: what the page must equal."""
    arguments = ["material", "red brick <b>wall</b>", "--size", "128x128", "--steps", "2", "--seed", "8"]
    out = site.out / "by-command"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the site: what other threads add up in another order differs by rounding
    with patch.dict(os.environ):
        assert cli.main([*arguments, "--out", str(out)]) == 0
    torch.set_num_threads(threads)
    return out


@pytest.mark.parametrize("visit", [(1440, "light"), (390, "dark")], indirect=True)
def test_material(visit: Visit, site: Site, first: Path, tmp_path: Path) -> None:
    page = visit.page
    wide = page.evaluate("window.innerWidth") > 600
    ask(visit, "red brick <b>wall</b>", count=2 if wide else 1, seed=7 if wide else 8)
    expect(page.locator("#z-status progress")).to_be_visible()
    made(visit)
    if wide:  # ranked by score
        ranks = [float(text) for text in page.locator("#z-preview .z-ranks .z-number").all_inner_texts()]
        assert len(ranks) == 2 and ranks == sorted(ranks, reverse=True)
    # the pixels of seed 8 are the command's
    folder = max(site.out.glob("2*-red-brick-b-wall-b*"), key=lambda path: path.stat().st_mtime)
    for name in ("basecolor", "normal", "height", "roughness", "metallic", "ao"):
        here, there = (read_png(path / f"{name}.png").pixels for path in (folder / "0001" if wide else folder, first))
        assert np.array_equal(here, there), name
    # markup in a prompt stays text
    assert page.locator("#z-preview .z-title").inner_text() == "red brick <b>wall</b>"
    assert page.locator("#z-preview .z-title b").count() == 0
    # tiles: drag, seam, marks, maps
    tile = "#z-preview .z-canvas:not(.z-round):not(.z-near)"
    before = drawn(visit, tile)
    assert spread(before, tmp_path) > 5
    box = page.locator(tile).bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2 + 41, box["y"] + box["height"] / 2 + 23, steps=3)
    page.mouse.up()
    dragged = drawn(visit, tile)
    seam = page.locator("#z-preview").get_by_role("button", name="Seam in the centre")
    assert dragged != before and seam.get_attribute("aria-pressed") == "false"
    seam.click()
    assert seam.get_attribute("aria-pressed") == "true" and drawn(visit, tile) == before
    page.locator(tile).focus()
    page.keyboard.press("ArrowRight")
    assert drawn(visit, tile) != before
    page.locator("#z-preview").get_by_role("button", name="Height", exact=True).click()
    assert page.locator("#z-preview").get_by_label("Map", exact=True).input_value() == "height"
    assert drawn(visit, tile) != dragged
    # the solid: shapes, light, turning
    solid = "#z-preview .z-round"
    seen = [drawn(visit, solid)]
    assert spread(seen[0], tmp_path) > 5
    page.locator("#z-preview").get_by_label("Light around").fill("70")
    seen.append(drawn(visit, solid))
    for shape in ("Plane", "Cloth"):
        page.locator("#z-preview").get_by_role("radio", name=shape).click()
        seen.append(drawn(visit, solid))
    page.locator(solid).focus()
    page.keyboard.press("ArrowLeft")
    seen.append(drawn(visit, solid))
    assert len(set(seen)) == len(seen)
    # export, of the chosen one where there are two
    if wide:
        page.locator("#z-preview .z-ranks button").nth(1).click()
    page.get_by_label("Unreal").locator("visible=true").check()
    page.locator("#z-material-export").click()
    link = page.locator("#z-material-packs a[download]").first
    link.wait_for()
    with page.expect_download() as download:
        link.click()
    with zipfile.ZipFile(download.value.path()) as archive:
        assert any(name.endswith(".gltf") or name.endswith(".glb") for name in archive.namelist())
    if wide:
        seed = page.locator("#z-preview .z-facts dd").nth(2).inner_text()
        page.locator("#z-again").click()
        expect(page.locator("#z-preview .z-ranks")).to_be_hidden()
        made(visit)
        assert (
            page.locator("#z-preview .z-facts dd").nth(2).inner_text()
            == seed
            == page.get_by_label("Seed", exact=True).locator("visible=true").input_value()
        )


def test_recall_and_refusals(visit: Visit, first: Path, tmp_path: Path) -> None:
    page = visit.page
    page.locator("#z-recall input[type=file]").set_input_files(first / "normal.png")
    expect(page.locator("#z-status")).to_contain_text("All settings of normal.png are back")
    assert page.get_by_label("Prompt", exact=True).locator("visible=true").input_value() == "red brick <b>wall</b>"
    assert page.get_by_label("Seed", exact=True).locator("visible=true").input_value() == "8"
    assert page.get_by_label("Width, px").locator("visible=true").input_value() == "128"
    write_png(tmp_path / "other.png", np.zeros((3, 8, 8), np.uint8), colour="srgb")
    page.locator("#z-recall input[type=file]").set_input_files(tmp_path / "other.png")
    expect(page.locator("#z-status [role=alert]")).to_contain_text("but other.png has none")
    page.get_by_label("Prompt", exact=True).locator("visible=true").fill("")
    page.get_by_role("button", name="Make", exact=True).click()
    expect(page.locator("#z-status [role=alert]")).to_have_text(
        "Expected prompt to say what to make, but got an empty text."
    )


def test_stop_queue_and_leaving(visit: Visit, site: Site) -> None:
    page = visit.page
    ask(visit, "slow slate", side=256, steps=400)
    expect(page.locator("#z-status")).to_contain_text("left")
    assert re.search(r"Step \d+ of 400", page.locator("#z-status").inner_text())
    other = Visit(visit.context.new_page(), visit.context)
    watch(other, site.address)
    other.page.goto(site.address)
    other.page.locator("#z-make").wait_for()
    ask(other, "quick quartz", side=64, steps=1)
    expect(other.page.locator("#z-status")).to_contain_text("Waiting: 1 job first")
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.locator("#z-status")).to_contain_text("Stopped; nothing was kept.")
    made(other)
    # who closes the page wants no more of it: the next one is not kept waiting
    ask(other, "endless onyx", side=256, steps=900)
    expect(other.page.locator("#z-status")).to_contain_text("left")
    other.page.close()
    ask(visit, "quick quartz", side=64, steps=1)
    made(visit)
    assert other.faults == [] and not list(site.out.glob("*endless*")) and not list(site.out.glob("*slow*"))


@pytest.mark.parametrize("visit", [(1440, "dark"), (390, "light")], indirect=True)
def test_score(visit: Visit, first: Path, tmp_path: Path) -> None:
    page = visit.page
    ramp = np.broadcast_to(np.arange(96, dtype=np.uint8) * 2, (3, 96, 96))
    write_png(tmp_path / "ramp.png", np.ascontiguousarray(ramp), colour="srgb")
    (tmp_path / "page.png").write_text("<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>")
    open_tab(visit, "Score")
    page.locator("#z-score-files input[type=file]").set_input_files(
        [first / "basecolor.png", tmp_path / "ramp.png", tmp_path / "page.png"]
    )
    expect(page.locator("#z-score-files")).to_contain_text("page")
    page.locator("#z-score-go").click()
    expect(page.locator("#z-score-table tbody tr")).to_have_count(2)
    expect(page.locator("#z-score-table tbody")).to_contain_text("seam on x")
    expect(page.locator("#z-score-status [role=alert]")).to_contain_text("but page.png is none")
    page.locator("#z-score-preview .z-ranks button").nth(1).click()
    expect(page.locator("#z-score-preview .z-title")).to_have_text("ramp.png")
    assert spread(drawn(visit, "#z-score-preview .z-canvas:not(.z-round):not(.z-near)"), tmp_path) > 5
    expect(page.locator("#z-score-preview .z-round")).to_be_hidden()


@pytest.mark.parametrize("visit", [(1440, "light"), (390, "dark")], indirect=True)
def test_batch(visit: Visit, site: Site, tmp_path: Path) -> None:
    page = visit.page
    name = f"walls-{page.evaluate('window.innerWidth')}"
    rows = [{"id": f"r{i}", "prompt": "red brick wall", "size": "64x64", "steps": 1, "seed": i} for i in range(2)]
    (tmp_path / "bad.jsonl").write_text(json.dumps(rows[0] | {"lock": {"height": "/etc/passwd"}}))
    (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    open_tab(visit, "Batch")
    field = page.locator("#z-batch-file input[type=file]")
    field.set_input_files(tmp_path / "bad.jsonl")
    expect(page.locator("#z-batch-file")).to_contain_text("bad")
    page.locator("#z-batch-check").click()
    expect(page.locator("#z-batch-status [role=alert]")).to_contain_text("the page reads no files of the server")
    page.locator("#z-batch-file").get_by_role("button", name=re.compile("clear|remove", re.I)).first.click()
    field.set_input_files(tmp_path / f"{name}.jsonl")
    expect(page.locator("#z-batch-file")).to_contain_text("walls")
    page.locator("#z-batch-check").click()
    expect(page.locator("#z-batch-status")).to_contain_text("Every row is fit to be made.")
    expect(page.locator("#z-batch-table")).to_contain_text("Rows to make")
    page.locator("#z-batch-go").click()
    expect(page.locator("#z-batch-status")).to_contain_text("2 made, 0 whole already, 0 failed")
    page.locator("#z-batch-shelf button").nth(1).click()
    expect(page.locator("#z-batch-preview .z-title")).to_have_text("red brick wall")
    page.locator("#z-batch-pack").click()
    link = page.locator("#z-batch-zip a[download]").first
    link.wait_for()
    with page.expect_download() as download:
        link.click()
    with zipfile.ZipFile(download.value.path()) as archive:
        assert f"{name}/r1/basecolor.png" in archive.namelist()
    assert (site.out / "batches" / name / "r0" / "material.json").is_file()


@pytest.mark.parametrize("visit", [(WIDE, "light"), (NARROW, "dark")], indirect=True)
def test_history_and_accessibility(visit: Visit, first: Path) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    page = visit.page
    own = page.evaluate("window.innerWidth")
    serious: list[str] = []

    def look(where: str) -> None:
        """What is open, at the other width and then at the visit's own."""
        for width in (WIDE + NARROW - own, own):
            page.set_viewport_size({"width": width, "height": 900})
            page.wait_for_timeout(200)  # the tabs that do not fit go into their menu
            serious.extend(_serious(axe.Axe().run(page), f"{where} at {width}"))
            there = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
            assert there[0] <= there[1] == width, f"{where} scrolls sideways at {width}"

    open_tab(visit, "Material")
    look("Material")
    page.get_by_role("button", name="Keep maps").click()
    page.get_by_role("button", name="Steps, guidance, pattern").click()
    page.get_by_label("Pattern size, 0 to 1").locator("visible=true").wait_for()
    look("Material, unfolded")
    for name in ("Image", "Upscale", "Photo to maps", "Score", "Batch", "History"):
        open_tab(visit, name)
        page.wait_for_timeout(400)
        if name == "History":
            page.locator("#z-shelf button").filter(has_text="red brick <b>wall</b>").last.click()
            expect(page.locator("#z-history-preview .z-title")).to_have_text("red brick <b>wall</b>")
        look(name)
    assert serious == []
    page.locator("#z-history-recall").click()
    expect(page.get_by_label("Prompt", exact=True).locator("visible=true")).to_have_value("red brick <b>wall</b>")
    expect(page.get_by_label("Prompt", exact=True).locator("visible=true")).to_be_visible()


def _serious(found: Any, where: str) -> list[str]:
    bad = [each for each in found.response["violations"] if each["impact"] in ("serious", "critical")]
    return [f"{where}: {each['id']}: {[node['html'][:160] for node in each['nodes'][:4]]}" for each in bad]


def test_everything_is_reached_by_keyboard(visit: Visit) -> None:
    page = visit.page
    page.locator("body").click(position={"x": 2, "y": 2})
    wanted = {"z-prompt", "z-width", "z-seed", "z-count", "z-make", "z-recall", "z-seamless", "z-tabs"}
    reached: set[str] = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached |= set(page.evaluate(UPWARDS))
    assert wanted <= reached, wanted - reached


def test_the_first_paint_and_the_theme_switch(visit: Visit) -> None:
    page = visit.page
    (paint,) = page.evaluate("performance.getEntriesByName('first-contentful-paint').map((entry) => entry.startTime)")
    assert paint > 0  # benchmarks/page.py has the bar, for a machine that does nothing else
    expect(page.locator("#z-splash")).to_have_count(0)
    switch = page.get_by_role("button", name="Switch between light and dark")
    switch.click()
    assert page.evaluate("document.body.classList.contains('dark')")
    page.reload()
    page.locator("#z-make").wait_for()
    page.wait_for_function("document.body.classList.contains('dark')")
