from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ui import cli


@pytest.fixture
def textures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """wall/tile.png tiles, wall/deep/crop.png doesn't on x; notes.txt is no image."""
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(2).standard_normal((96, 128))
    fy, fx = np.fft.fftfreq(96)[:, None] * 96, np.fft.rfftfreq(128)[None] * 128
    clouds = np.fft.irfft2(np.fft.rfft2(noise) / (1 + np.hypot(fx, fy) / 6) ** 1.5, s=(96, 128))
    grey = np.clip(128 + 40 * (clouds - clouds.mean()) / clouds.std(), 0, 255).astype(np.uint8)
    (tmp_path / "wall" / "deep").mkdir(parents=True)
    Image.fromarray(grey).save(tmp_path / "wall" / "tile.png")
    Image.fromarray(np.ascontiguousarray(grey[:, :100])).save(tmp_path / "wall" / "deep" / "crop.png")
    (tmp_path / "notes.txt").write_text("not an image")
    return tmp_path


def test_table(textures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["score", "wall"]) == 0
    head, crop, tile = capsys.readouterr().out.splitlines()
    assert head.split() == ["file", "both", "x", "y", "seam", "x", "seam", "y", "verdict"]
    assert crop.startswith(os.path.join("wall", "deep", "crop.png")) and crop.endswith("seam on x")
    assert tile.endswith("tiles")


def test_json_and_csv_hold_the_same(textures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["score", "wall", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["weights"] and report["failed"] == []
    assert cli.main(["score", "wall", "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["path"] for row in rows] == [score["path"] for score in report["scores"]]
    assert [float(row["x"]) for row in rows] == [score["x"] for score in report["scores"]]
    assert report["scores"][0]["verdict"] == "seam on x" and report["scores"][0]["seam_x"] > 1.5


def test_a_gate_for_ci(textures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tile, crop = "wall/tile.png", "wall/deep/crop.png"
    assert cli.main(["score", tile, "--min", "0.5"]) == 0
    assert cli.main(["score", tile, crop, "--min", "0.5"]) == 1
    assert "1 of 2 are below 0.5" in capsys.readouterr().err
    assert cli.main(["score", tile, crop, "notes.txt", "--min", "0.5"]) == 2
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 3 and "notes.txt" in told.err and told.err.count("\n") == 1


def test_patterns_and_what_matches_nothing(textures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["score", "wall/**/*.png", "wall/tile.png", "--csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3  # each file once
    (textures / "empty").mkdir()
    for place, words in (("no*.png", "a pattern that matches one, but got no*.png"), ("empty", "a folder with images")):
        assert cli.main(["score", "wall/tile.png", place]) == 2
        told = capsys.readouterr()
        assert words in told.err and told.out == ""


def test_maps_are_written_apart(textures: Path) -> None:
    assert cli.main(["score", "wall", "wall/tile.png", "--map", "maps", "-q"]) == 0
    assert sorted(path.name for path in (textures / "maps").iterdir()) == ["crop.seams.png", "tile.seams.png"]
    seams = np.asarray(Image.open(textures / "maps" / "crop.seams.png")).astype(int)
    assert seams.shape == (96, 100, 3)
    red = (seams[..., 0] - seams[..., 1]).mean(0)
    assert int(np.roll(red, 50).argmax()) in range(48, 53)


@pytest.mark.parametrize("value", ["2", "-1", "nan", "much"])
def test_a_bad_minimum(value: str, textures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["score", "wall", f"--min={value}"]) == 2
    told = capsys.readouterr()
    assert told.err.startswith("zellige: expected --min to be a number") and told.out == ""
