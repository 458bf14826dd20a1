"""Requests of kind image and upscale, with tiny models of both kinds, from the command line to files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from asd import texture_enlarge, upscale
from asd.errors import CheckpointError, SizeError, ZelligeError
from asd.texture_enlarge import load_upscaler
from asd.texture_upscaler import TextureUpscaler
from tests import tiny, tiny_sd
from ui import pictures
from ui.cli import main
from ui.enlarging import in_one_step
from ui.fingerprint import find_weights, fingerprint, made_of
from ui.jobs import JobInterrupted, run_job
from ui.request import Request


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import warnings

    with warnings.catch_warnings():
        # diffusers' schedulers hand numpy 2 a tensor
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        yield


@pytest.fixture(scope="module")
def texture(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.checkpoint(tmp_path_factory.mktemp("texture")))


@pytest.fixture(scope="module")
def stable(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_sd.checkpoint("sd2.1", tmp_path_factory.mktemp("stable")))


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    rough = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(rough).resize((64, 48), Image.Resampling.BICUBIC).save(path)
    return str(path)


def read(path: Path) -> Any:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_an_image_from_a_prompt(texture: str, tmp_path: Path) -> None:
    request = Request(kind="image", prompt="red brick", size=(90, 50), seed=3, steps=2, model=texture)
    steps: list[tuple[int, int]] = []
    result = run_job(request, tmp_path / "a", progress=lambda p: steps.append((p.step, p.steps)), device="cpu")
    assert [file.name for file in result.files] == ["image.json", "image.png", "tiled.png"]
    assert steps == [(1, 2), (2, 2)]
    with Image.open(tmp_path / "a" / "image.png") as image:
        assert image.size == (90, 50) and Request.from_dict(json.loads(image.info["zellige"])["request"]) == request
    manifest = json.loads((tmp_path / "a" / "image.json").read_text())
    assert manifest["request"] == request.to_dict() and set(manifest["seam"]) == {"x", "y"}
    run_job(request, tmp_path / "b", device="cpu")
    assert np.array_equal(read(tmp_path / "a" / "image.png"), read(tmp_path / "b" / "image.png"))


@pytest.mark.parametrize("kind", ["texture", "stable"])
def test_images_from_images(kind: str, photo: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    mask = np.zeros((48, 64), np.uint8)
    mask[:, 32:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    values: dict[str, Any] = {
        "kind": "image", "prompt": "a", "image": photo, "mask": str(tmp_path / "mask.png"), "strength": 0.9,
        "size": "64x48", "steps": 3, "seamless": "none", "negative": "b", "model": request.getfixturevalue(kind),
    }  # fmt: skip
    run_job(Request.from_dict(values), tmp_path / "out", device="cpu")
    made, given = read(tmp_path / "out" / "image.png").astype(int), read(Path(photo)).astype(int)
    assert np.abs(made - given)[:, :32].max() <= 1 and np.abs(made - given)[:, 32:].mean() > 2
    assert not (tmp_path / "out" / "tiled.png").exists()


@pytest.mark.parametrize("kind", ["texture", "stable"])
def test_upscale_stopped_and_gone_on_with(
    kind: str, photo: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Request(
        kind="upscale", image=photo, size=(100, 75), steps=6, strength=0.5, seamless="none",
        model=request.getfixturevalue(kind),
    )  # fmt: skip
    run_job(asked, tmp_path / "whole", device="cpu")

    def stop(progress: Any) -> None:
        if progress.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(JobInterrupted):
        run_job(asked, tmp_path / "made", progress=stop, device="cpu")
    assert [path.name.startswith(".made.") for path in tmp_path.glob(".*")] == [True]
    steps: list[int] = []
    run_job(asked, tmp_path / "made", progress=lambda p: steps.append(p.step), device="cpu")
    assert steps == [3]
    assert np.array_equal(read(tmp_path / "made" / "image.png"), read(tmp_path / "whole" / "image.png"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "whole"]
    monkeypatch.setattr(pictures, "LARGEST_PNG", 1000)
    result = run_job(asked, tmp_path / "tiff", device="cpu")
    assert [file.name for file in result.files] == ["image.json", "image.tif"]
    assert np.array_equal(read(tmp_path / "tiff" / "image.tif"), read(tmp_path / "whole" / "image.png"))


def test_the_upscaler_that_ships(
    photo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    network = TextureUpscaler(channels=8, blocks=2, attend_after=1, heads=2, detail=4)
    torch.nn.init.normal_(network.last.weight, std=0.1)
    network.half().save_pretrained(tmp_path / "weights")
    monkeypatch.setattr(texture_enlarge, "WEIGHTS", tmp_path / "weights")
    asked = Request(kind="upscale", image=photo, size=(300, 225), seed=4, seamless="x")
    assert in_one_step(asked)
    assert not any(in_one_step(replace(asked, **{k: v})) for k, v in
                   {"strength": 0.5, "steps": 3, "guidance": 2.0, "negative": "a", "model": "b"}.items())  # fmt: skip
    steps: list[tuple[int, int]] = []
    run_job(asked, tmp_path / "whole", progress=lambda p: steps.append((p.step, p.steps)), device="cpu")
    assert steps == sorted(steps) and steps[-1][0] == steps[-1][1]
    with Image.open(photo) as image:
        wanted = np.asarray(upscale(image, load_upscaler("cpu"), size=(300, 225), seed=4, seamless="x"))
    made = read(tmp_path / "whole" / "image.png")
    assert np.abs(made.astype(int) - wanted).mean() < 1  # bytes between the two enlargements

    def stop(progress: Any) -> None:
        if progress.step >= steps[-1][1] // 2:
            raise KeyboardInterrupt

    with pytest.raises(JobInterrupted):
        run_job(asked, tmp_path / "made", progress=stop, device="cpu")
    assert main(["upscale", photo, "--size", "300x225", "--seamless", "x", "--seed", "4", "--out",
                 str(tmp_path / "made"), "--device", "cpu"]) == 0  # fmt: skip
    assert "pixels through the upscaler" not in capsys.readouterr().err  # it was said when it began
    assert np.array_equal(read(tmp_path / "made" / "image.png"), made)
    weights = find_weights(None)
    before = fingerprint(made_of(asked, weights))
    torch.nn.init.zeros_(network.last.weight)
    network.save_pretrained(tmp_path / "weights")
    assert fingerprint(made_of(asked, weights)) != before


def test_commands(texture: str, photo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--model", texture, "--steps", "2", "--device", "cpu", "-q"]
    out = tmp_path / "image"
    assert main(["image", "red brick", "--image", photo, "--report", "--out", str(out), *common]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [str(out / "image.json"), str(out / "image.png")]
    assert read(out / "image.png").shape == (48, 64, 3)
    out = tmp_path / "large"
    assert main(["upscale", photo, "--factor", "1.5", "--seamless", "x", "--json", "--out", str(out), *common]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["request"]["size"] == "96x72" and read(out / "image.png").shape == (72, 96, 3)
    assert main(["upscale", photo, "--size", "20x20", "--out", str(tmp_path / "no")]) == 2
    assert "at least the image's 64x48" in capsys.readouterr().err
    assert main(["upscale", str(tmp_path / "nothing.png"), "--factor", "2"]) == 2
    assert "there is no file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "image"}, "prompt"),
        ({"kind": "image", "prompt": "a", "lock": {"height": 1}}, "no lock with kind image"),
        ({"prompt": "a", "negative": "b"}, "no negative"),
        ({"kind": "image", "prompt": "a", "strength": 0.5}, "image to be the path"),
        ({"kind": "image", "prompt": "a", "mask": "m.png"}, "image to be the path"),
        ({"kind": "image", "prompt": "a", "image": "b.png", "strength": 0}, "strength"),
        ({"kind": "image", "prompt": "a", "image": " "}, "path of a photo"),
        ({"kind": "upscale"}, "image to be the path"),
        ({"kind": "upscale", "image": "b.png", "count": 2}, "one result"),
        ({"kind": "upscale", "image": "b.png", "prompt": 3}, "prompt to be text"),
    ],
)
def test_requests_that_cannot_be(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ZelligeError, match=message):
        Request.from_dict(values)


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "image", "prompt": "a", "image": "b.png", "mask": "m.png", "strength": 0.5, "negative": "c"},
        {"kind": "upscale", "image": "b.png", "size": "2000x1000"},
    ],
)
def test_pictures_round_trip(values: dict[str, Any]) -> None:
    made = Request.from_dict(values)
    assert Request.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    assert values.items() <= made.to_dict().items() and "lock" not in made.to_dict()


def test_models_of_the_other_kind(stable: str, photo: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="Expected a material model"):
        run_job(Request(prompt="a", size=(64, 64), model=stable), tmp_path / "a", device="cpu")
    with pytest.raises(ZelligeError, match="no scale"):
        run_job(Request(kind="image", prompt="a", scale=0.5, model=stable), tmp_path / "a", device="cpu")
    wide = Request(kind="image", prompt="a", image=photo, mask=__file__, model=stable)
    with pytest.raises(ZelligeError, match="Expected a readable image, but got"):
        run_job(wide, tmp_path / "a", device="cpu")
    with pytest.raises(SizeError, match="free memory"):
        run_job(Request(kind="image", prompt="a", size=(2**20, 2**20), model=stable), tmp_path / "a", device="cpu")
    assert not (tmp_path / "a").exists()
