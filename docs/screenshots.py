"""Make the pictures of docs/web.md: `python docs/screenshots.py` (minutes; needs chromium and the shipped model)."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

IMAGES = Path(__file__).with_name("images")
LARGEST = 400_000
"""Bytes of a picture."""
SIGN = bytes.fromhex("e0a021 0c6b62 6fcbbc d3f1ea 0b3834 d9f2e3 0c6b3f 123c28 8fe0b0 f7f8f8 111616 ffffff")
HEAD = (0, 0, 390, 76)
"""Where the sign is, on every width."""
FLAGS = ("--no-sandbox", "--disable-quic", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
MANIFEST = "".join(
    f'{{"id": "{prompt.replace(" ", "-")}", "prompt": "{prompt}", "size": "256x256", "seed": {seed}}}\n'
    for seed, prompt in enumerate(("red brick wall", "oak planks", "rusty metal", "grey slate"))
)


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    command = [sys.executable, "-m", "ui", "ui", "--port", "0", "--no-browser", "--out", str(folder / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, sync_playwright() as playwright:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=list(FLAGS))
        try:
            picture(browser, address, folder)
        finally:
            browser.close()
            server.terminate()
    shutil.rmtree(folder)


def picture(browser: Browser, address: str, folder: Path) -> None:
    page = visit(browser, address, 1440, 1180, "light")
    make(page, "mossy cobblestone wall", 512, 3, count=3)
    page.get_by_role("radio", name="Plane").first.click()
    save(page, "web-material-light.png")
    page.close()

    page = visit(browser, address, 1440, 1180, "dark")
    make(page, "blue zellige tiles, glazed", 512, 5)
    save(page, "web-material-dark.png")
    page.close()

    page = visit(browser, address, 390, 844, "light")
    make(page, "brown leather", 256, 5)
    page.locator("#z-preview").scroll_into_view_if_needed()
    page.evaluate("document.querySelector('#z-status').scrollIntoView()")
    save(page, "web-phone.png")
    page.close()

    result = next((folder / "out").glob("*mossy*/0000"))
    with Image.open(result / "basecolor.png") as image:
        image.crop((0, 0, 400, 512)).save(folder / "cropped.png")
    shutil.copy(result / "basecolor.png", folder / "tile.png")
    page = visit(browser, address, 1440, 1000, "light")
    page.get_by_role("tab", name="Score").click()
    page.locator("#z-score-files input[type=file]").set_input_files([folder / "tile.png", folder / "cropped.png"])
    page.locator("#z-score-files").get_by_text("cropped").wait_for()
    page.locator("#z-score-go").click()
    page.locator("#z-score-preview .z-ranks button").nth(1).click()
    save(page, "web-score.png")
    page.close()

    pictures(browser, address, folder)

    (folder / "walls.jsonl").write_text(MANIFEST, encoding="utf-8")
    page = visit(browser, address, 1440, 760, "dark")
    page.get_by_role("tab", name="Batch").click()
    page.locator("#z-batch-file input[type=file]").set_input_files(folder / "walls.jsonl")
    page.locator("#z-batch-file").get_by_text("walls").wait_for()
    page.locator("#z-batch-check").click()
    page.locator("#z-batch-table table").wait_for()
    page.locator("#z-batch-go").click()
    page.locator("#z-batch-shelf button").nth(2).wait_for()
    save(page, "web-batch.png")
    page.locator("#z-batch-pack").wait_for()
    page.close()

    page = visit(browser, address, 1440, 1000, "light")
    page.get_by_role("tab", name="History").click()
    page.locator("#z-shelf button").first.wait_for()
    page.locator("#z-shelf button").nth(2).click()
    page.locator("#z-history-preview .z-title").wait_for()
    save(page, "web-history.png")
    page.close()


def pictures(browser: Browser, address: str, folder: Path) -> None:
    """The tabs that make pictures, and maps of them."""
    page = visit(browser, address, 1440, 960, "dark")
    page.get_by_role("tab", name="Image", exact=True).click()
    page.locator("#z-paint-prompt textarea").fill("weathered teal paint on planks")
    page.locator("#z-paint-width input").fill("512")
    page.locator("#z-paint-height input").fill("384")
    page.locator("#z-paint-go").click()
    page.locator("#z-paint-status .z-good").wait_for()
    save(page, "web-image.png")
    page.close()

    with Image.open(folder / "cropped.png") as image:
        image.crop((40, 40, 232, 232)).save(folder / "cobbles.png")
    page = visit(browser, address, 1440, 960, "light")
    page.get_by_role("tab", name="Upscale", exact=True).click()
    page.locator("#z-upscale-given input[type=file]").set_input_files(folder / "cobbles.png")
    page.locator("#z-upscale-card img").wait_for()
    page.get_by_label("3 ×").check()
    page.locator("#z-upscale-prompt textarea").fill("mossy cobblestone wall")
    page.locator("#z-upscale-go").click()
    page.locator("#z-upscale-status .z-good").wait_for()
    save(page, "web-upscale.png")
    page.close()

    page = visit(browser, address, 1440, 1180, "light")
    page.get_by_role("tab", name="Photo to maps", exact=True).click()
    page.locator("#z-photo-given input[type=file]").set_input_files(folder / "cropped.png")
    page.locator("#z-photo-card img").wait_for()
    page.locator("#z-photo-go").click()
    page.locator("#z-photo-status .z-good").wait_for()
    page.locator("#z-photo-preview").get_by_role("radio", name="Plane").click()
    save(page, "web-photo.png")
    page.close()


def visit(browser: Browser, address: str, width: int, height: int, scheme: Any) -> Page:
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(600_000)
    page.goto(address)
    page.locator("#z-splash").wait_for(state="detached")
    return page


def make(page: Page, prompt: str, side: int, seed: int, count: int = 1) -> None:
    page.get_by_label("Prompt", exact=True).locator("visible=true").fill(prompt)
    page.get_by_label("Width, px").locator("visible=true").fill(str(side))
    page.get_by_label("Height, px").locator("visible=true").fill(str(side))
    page.get_by_label("Seed", exact=True).locator("visible=true").fill(str(seed))
    page.get_by_label("Best of").locator("visible=true").fill(str(count))
    page.get_by_role("button", name="Make", exact=True).click()
    page.locator("#z-status .z-good").wait_for()


def save(page: Page, name: str) -> None:
    """A picture in a palette as large as fits `LARGEST`."""
    page.wait_for_timeout(2500)  # what is drawn, and pictures that arrive
    with Image.open(io.BytesIO(page.screenshot())) as image:
        shot = image.convert("RGB")
    for colours in (256, 128, 64, 32):
        plain = shot.quantize(colours - len(SIGN) // 3)
        room = 3 * colours - len(SIGN)
        kept = [*(plain.getpalette() or []), *bytes(768)][:room]
        palette = Image.new("P", (1, 1))
        palette.putpalette([*kept, *SIGN])
        dither = Image.Dither.FLOYDSTEINBERG if colours == 256 else Image.Dither.NONE
        small = shot.quantize(palette=plain, dither=dither)
        small.putpalette([*kept, *SIGN])
        # the few pixels of the sign would lose their colours to the many of the material
        small.paste(shot.crop(HEAD).quantize(palette=palette, dither=Image.Dither.NONE), HEAD)
        data = io.BytesIO()
        small.save(data, "PNG", optimize=True)
        if data.tell() < LARGEST:
            break
    (IMAGES / name).write_bytes(data.getvalue())


if __name__ == "__main__":
    main()
