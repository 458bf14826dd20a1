from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from benchmarks.kills import pixels
from benchmarks.kills_tiled import main, run, write_picture


@pytest.mark.skipif("ZELLIGE_KILLS" not in os.environ, reason="takes a minute: ZELLIGE_KILLS=1 asks for it")
def test_an_enlargement_that_is_killed_once(tmp_path: Path) -> None:
    file = tmp_path / "told.json"
    assert main(["--size", "64x64", "--kills", "1", "--steps", "2", "--json", str(file)]) == 0
    told = {figure["figure"]: figure["value"] for figure in json.loads(file.read_text())["figures"]}
    assert told["kills"] == 1 and told["results after them"] >= 1 and told["results whose decoded pixels differ"] == 0


def test_a_run_that_fails_says_why_and_pixels_tell_pictures_apart(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="end well"):
        run(["python3", "-c", "raise SystemExit('no')"])
    for name, side in (("a", (8, 8)), ("b", (8, 8)), ("c", (9, 8))):
        (tmp_path / name).mkdir()
        write_picture(tmp_path / name / "image.png", side)
    a, b, c = (pixels(tmp_path / name / "image.png") for name in "abc")
    assert a == b != c
