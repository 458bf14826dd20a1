"""A studio without a network, and the real page in a real browser."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.ui.conftest import PlainPipeline

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

    from ui.web.work import Studio

ROOT = Path(__file__).parents[3]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync",
    "--disable-component-update", "--disable-gpu", "--enable-unsafe-swiftshader",
)  # fmt: skip
"""The solid's WebGL is drawn by SwiftShader; were the page itself too, that would take most of the tests' time."""
PATIENCE = 90_000
"""Milliseconds that anything may take: a machine that does other things too is slow, and what never comes fails too."""
HAS_WEIGHTS = (ROOT / "materials" / "weights" / "model_index.json").is_file()


@pytest.fixture
def studio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Studio]:
    """A studio whose model is `PlainPipeline`, which every job is given."""
    from ui.web.work import Studio

    made = PlainPipeline()
    monkeypatch.setattr("ui.jobs._load", lambda model, device: made)
    studio = Studio(out=tmp_path / "out")
    yield studio
    studio.line.close()  # torch keeps tens of megabytes for every thread


@dataclass
class Site:
    """A running `zellige ui`: its address and its folder of results."""

    address: str
    out: Path
    process: subprocess.Popen[str] = field(repr=False)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    out = tmp_path_factory.mktemp("site") / "out"
    command = [sys.executable, "-m", "ui", "ui", "--port", "0", "--no-browser", "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:"), address
        try:
            yield Site(address, out, process)
        finally:
            process.terminate()
            process.wait(20)


@pytest.fixture(scope="module")  # while it is open, its event loop runs in this thread
def browser() -> Iterator[Browser]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed (Debian: apt-get install chromium)")
    if not HAS_WEIGHTS:
        pytest.skip("materials/weights is not there")
    sync_api.expect.set_options(timeout=PATIENCE)
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield found
        found.close()


@dataclass
class Visit:
    """A page that is open, and what went wrong on it."""

    page: Page
    context: BrowserContext
    faults: list[str] = field(default_factory=list)


@pytest.fixture
def visit(request: pytest.FixtureRequest, browser: Browser, site: Site) -> Iterator[Visit]:
    """The page at a width and in a scheme, by indirect parameters; it must end without a fault."""
    width, scheme = getattr(request, "param", (1440, "light"))
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, has_touch=width < 600, accept_downloads=True
    )
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    made = Visit(page, context)
    watch(made, site.address)
    page.goto(site.address)
    page.locator("#z-make").wait_for()
    yield made
    context.close()
    assert made.faults == []


def watch(visit: Visit, address: str) -> None:
    """Note console errors, uncaught errors, failed answers, and every request to another host."""

    def on_request(request: Any) -> None:
        if not request.url.startswith((address, "data:", f"blob:{address}")):
            visit.faults.append(f"a request left the machine: {request.url}")

    page = visit.page
    page.on("request", on_request)
    page.on("console", lambda message: visit.faults.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: visit.faults.append(str(error)))
    page.on(
        "response", lambda answer: visit.faults.append(f"{answer.status} {answer.url}") if answer.status > 399 else None
    )
