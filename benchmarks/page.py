"""How long the page of `zellige ui` takes to show something and to be usable, in the system's chromium without a cache.

    python -m benchmarks.page [--visits 9 --json FILE]

Every visit is a fresh context of one browser, on the machine that also serves; the median counts. "usable" is when the
button Make is there and nothing covers it.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from benchmarks.table import Figure, add_json, finish

FIRST_PAINT = 1.5
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")


def measure(chromium: str, visits: int) -> tuple[float, list[float], list[float]]:
    """Seconds from the start of the process to its address, and per visit to the first paint and to a usable page."""
    from playwright.sync_api import sync_playwright

    paints, usable = [], []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        command = [sys.executable, "-m", "ui", "ui", "--port", "0", "--no-browser", "--out", folder]
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        began = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                address = server.stdout.readline().strip()
                started = time.perf_counter() - began
                for _ in range(visits):
                    context = browser.new_context()
                    page = context.new_page()
                    began = time.perf_counter()
                    page.goto(address, wait_until="commit")
                    page.locator("#z-make").wait_for()
                    page.locator("#z-splash").wait_for(state="detached")
                    usable.append(time.perf_counter() - began)
                    found = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
                    paints.append(page.evaluate(found) / 1000)
                    context.close()
            finally:
                browser.close()
                server.terminate()
    return started, paints, usable


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--visits", type=int, default=9, metavar="N", help="visits (%(default)s)")
    add_json(parser)
    options = parser.parse_args(argv)
    chromium = shutil.which("chromium")
    if chromium is None:
        print("Expected chromium on the path, but there is none (Debian: apt-get install chromium).", file=sys.stderr)
        return 2
    started, paints, usable = measure(chromium, options.visits)
    figures = [
        Figure(name="first paint, seconds", value=statistics.median(paints), bar=FIRST_PAINT),
        Figure(name="usable, seconds", value=statistics.median(usable)),
        Figure(name="server up, seconds", value=started),
    ]
    details = {"paints": paints, "usable": usable}
    return finish("page", figures, options.json, details)


if __name__ == "__main__":
    sys.exit(main())
