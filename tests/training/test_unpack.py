"""A pack as a folder that the trainer of LoRAs reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from asd.image_folder import find_images, read_image
from tests import tiny
from training.pack import Pack
from training.unpack import main


def test_what_is_unpacked_is_what_was_packed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny.pack(tmp_path / "pack")
    assert main([str(folder), str(tmp_path / "out")]) == 0
    assert "3 images" in capsys.readouterr().out
    pack, found = Pack(folder), find_images(tmp_path / "out")
    assert [image.seamless for image in found] == ["xy", "x", "xy"]
    for place, image in zip(pack.split("train"), found, strict=True):
        assert image.caption == pack.row(place)["caption"]
        wanted = pack.load(place, maps=False)["basecolor"]
        assert np.array_equal((read_image(image.path).permute(1, 2, 0) * 255).round().byte().numpy(), wanted)


def test_bad_input_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny.pack(tmp_path / "pack")
    assert main([str(folder), str(tmp_path)]) == 2
    assert "not there yet" in capsys.readouterr().err
    assert main([str(tmp_path / "gone"), str(tmp_path / "out")]) == 2
    assert "Expected a finished pack" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert main([str(folder), str(tmp_path / "few"), "--count", "2"]) == 0
    assert len(find_images(tmp_path / "few")) == 2
