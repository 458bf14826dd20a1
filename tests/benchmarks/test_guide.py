"""The guidance benchmark's choice of rows, verdicts and sheet, without a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import guide


def test_rows_are_spread_over_the_list() -> None:
    rows = [{"id": str(i)} for i in range(11)]
    assert [i for i, _ in guide.spread(rows, 3)] == [0, 5, 10]
    assert [row["id"] for _, row in guide.spread(rows, 99)] == [row["id"] for row in rows]


def test_both_the_score_and_the_seam_decide() -> None:
    found = np.array([[0.9, 0.9, 1.0, 1.4], [0.7, 0.7, 1.0, 1.0], [0.9, 0.9, 1.0, 1.6]])
    assert guide.tiling(found).tolist() == [True, False, False]


def test_images_are_judged_and_drawn(tmp_path: Path) -> None:
    t = np.arange(64) * (2 * np.pi / 64)
    wave = 128 + 60 * np.sin(t)[None, :] * np.cos(t)[:, None]
    for name, image in (("tile", wave), ("crop", wave[:, :40])):
        Image.fromarray(image.astype(np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "tile.json").write_text('{"seconds": 2.5}')
    paths = [tmp_path / "tile.png", tmp_path / "crop.png"]
    found = guide.judged(paths)
    assert found.shape == (2, 4) and found[1, 2] > 2 > found[0, 2]
    assert guide.seconds_each(paths) == 2.5 and np.isnan(guide.seconds_each(paths[1:]))
    guide.draw_sheet(tmp_path / "sheet.png", {"one": paths, "other": paths}, {"one": found, "other": found}, 1)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (4 * guide.THUMB + 12, 2 * (2 * guide.THUMB + 16))


def test_features_of_other_images_are_refused(tmp_path: Path) -> None:
    (tmp_path / "textures.csv").write_text("path,split\na.png,train\n")
    (tmp_path / "report.py").write_text("")
    np.savez(tmp_path / "features.npz", real=np.zeros((3, 2)))
    with pytest.raises(ValueError, match="Expected features of 0 images"):
        guide.kids(tmp_path / "report.py", tmp_path, tmp_path / "features.npz", tmp_path / "textures.csv", {})
