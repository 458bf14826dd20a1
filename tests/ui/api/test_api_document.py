"""What docs/api.md shows is run against a real server."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from tests.ui.api.conftest import Live

DOCUMENT = (Path(__file__).parents[3] / "docs" / "api.md").read_text(encoding="utf-8")


def blocks(language: str, url: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```", DOCUMENT, re.M | re.S)
    return [block.replace("http://localhost:8000", url) for block in found]


@pytest.mark.parametrize("place", range(3))
def test_python(live: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {"__name__": "document"}
    exec(compile(blocks("python", live.url)[place], "docs/api.md", "exec"), scope)
    if "client" in scope:
        scope["client"].close()  # pyright: ignore[reportAttributeAccessIssue] - an OpenAI
    made = {path.name for path in tmp_path.iterdir()}
    assert made >= ({"basecolor.png", "material.json"}, {"brick-0.png", "brick-1.png"}, set[str]())[place]


@pytest.mark.skipif(shutil.which("curl") is None or shutil.which("bash") is None, reason="curl or bash is not there")
def test_curl(live: Live, tmp_path: Path) -> None:
    (script,) = blocks("bash", live.url)
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "wall.png") as image:
        assert image.size == (128, 96)
    assert "event: done" in (tmp_path / "events.txt").read_text()
    assert '"verdict"' in done.stdout and "Expected an image (PNG, JPEG, WEBP), but it is none" in done.stdout
    assert "name,width,height" in done.stdout
