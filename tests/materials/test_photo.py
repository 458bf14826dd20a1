from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from asd.errors import ZelligeError
from materials.photo import photo_size, read_photo

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)  # pyright: ignore[reportArgumentType]
    return path


def test_a_plain_file_is_read_as_it_is(tmp_path: Path) -> None:
    path = saved(Image.fromarray(PIXELS), tmp_path / "a.png")
    expected = torch.from_numpy(PIXELS.copy()).permute(2, 0, 1).float() / 255
    assert torch.equal(read_photo(path), expected)
    assert torch.equal(read_photo(str(path)), expected)
    assert torch.equal(read_photo(Image.fromarray(PIXELS)), expected)
    assert torch.equal(read_photo(expected), expected)
    assert photo_size(path) == (9, 6)


@pytest.mark.parametrize(("mode", "orientation"), [("RGB", o) for o in range(1, 9)])
def test_exif_turns_it_upright(tmp_path: Path, mode: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(Image.fromarray(PIXELS), tmp_path / "a.png", exif=exif)
    made = read_photo(path)
    upright = {
        1: PIXELS, 2: PIXELS[:, ::-1], 3: PIXELS[::-1, ::-1], 4: PIXELS[::-1], 5: PIXELS.transpose(1, 0, 2),
        6: np.rot90(PIXELS, -1), 7: PIXELS[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(PIXELS),
    }[orientation]  # fmt: skip
    assert torch.equal(made, torch.from_numpy(upright.copy()).permute(2, 0, 1).float() / 255)
    assert photo_size(path) == (made.shape[2], made.shape[1])


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"])
def test_every_mode_has_a_result(mode: str) -> None:
    image = Image.fromarray(PIXELS)
    if mode in ("I;16", "I"):
        image = Image.fromarray(np.arange(54, dtype=np.uint16).reshape(6, 9) * 1000)
        image = image if mode == "I;16" else image.convert("I")
    elif mode == "F":
        image = Image.fromarray(PIXELS[..., 0].astype(np.float32) / 255)
    else:
        image = image.convert(mode)
    made = read_photo(image)
    assert made.shape == (3, 6, 9) and made.dtype == torch.float32
    assert float(made.min()) >= 0 and float(made.max()) <= 1


def test_a_colour_profile_is_converted_and_a_broken_one_is_srgb(tmp_path: Path) -> None:
    grey = Image.fromarray(np.full((8, 8, 3), 100, np.uint8))
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    same = saved(grey, tmp_path / "same.png", icc_profile=lab.tobytes())
    broken = saved(grey, tmp_path / "broken.png", icc_profile=b"no profile")
    assert abs(float(read_photo(same).mean()) - 100 / 255) < 2 / 255
    assert torch.equal(read_photo(broken), torch.full((3, 8, 8), 100 / 255))


def test_the_first_of_a_multi_picture_file_is_taken(tmp_path: Path) -> None:
    first, second = Image.fromarray(PIXELS), Image.new("RGB", (9, 6))
    path = tmp_path / "phone.mpo"
    first.save(path, save_all=True, append_images=[second], quality=100)
    with Image.open(path) as opened:
        assert getattr(opened, "n_frames", 1) == 2
    assert float(read_photo(path).mean()) == pytest.approx(PIXELS.mean() / 255, abs=0.05)


def test_what_is_no_photo_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "cut.png").write_bytes(saved(Image.fromarray(PIXELS), tmp_path / "a.png").read_bytes()[:60])
    Image.fromarray(PIXELS).save(tmp_path / "moving.gif", save_all=True, append_images=[Image.new("RGB", (9, 6))])
    faults = {
        str(tmp_path / "absent.png"): "there is no file",
        str(tmp_path / "text.jpg"): "readable photo",
        str(tmp_path / "cut.png"): "readable photo",
        str(tmp_path / "moving.gif"): "a still image, but got 2 frames",
        str(tmp_path): "readable photo",
        "a\0b": "readable photo",
    }
    for path, message in faults.items():
        with pytest.raises(ZelligeError, match=message) as caught:
            read_photo(path)
        assert str(caught.value).startswith("Expected ") and str(caught.value).count("\n") == 0
    for bad in (torch.rand(2, 3, 4, 4), torch.rand(4, 4), torch.full((3, 4, 4), torch.nan)):
        with pytest.raises(ZelligeError, match="Expected"):
            read_photo(bad)


def test_a_huge_file_is_refused_from_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("textile_metric.images.MAX_PIXELS", 50)
    path = saved(Image.fromarray(PIXELS), tmp_path / "a.png")
    for read in (read_photo, photo_size):
        with pytest.raises(ZelligeError, match="1 to 50 pixels, but got 9x6"):
            read(path)
