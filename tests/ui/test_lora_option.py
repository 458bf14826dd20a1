"""`--lora` from the command line to pixels, fingerprints and what others may not name."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from asd.errors import ZelligeError
from asd.lora import WEIGHTS, add_lora, save_lora
from materials.pipeline import MaterialPipeline
from tests import tiny, tiny_sd
from ui.cli import main
from ui.enlarging import _weights
from ui.fingerprint import find_weights, fingerprint, made_of
from ui.jobs import _load, run_job
from ui.request import Request
from ui.web.uploads import check_local, trusted


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # diffusers' schedulers hand numpy 2 a tensor
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        yield


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return {"texture": str(tiny.checkpoint(folder / "texture")), "stable": str(tiny_sd.checkpoint("sd1.5", folder))}


@pytest.fixture(scope="module")
def loras(models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    made = {}
    for kind, model in models.items():
        pipeline: Any = _load(model, "cpu")
        factors = add_lora(pipeline.unet, 2, convolutions=True)
        generator = torch.Generator().manual_seed(0)
        for parameter in factors.values():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.5
        folder = tmp_path_factory.mktemp("lora")
        save_lora(pipeline.unet, folder, {})
        made[kind] = str(folder)
    return made


def pixels(folder: Path, name: str) -> Any:
    with Image.open(folder / name) as image:
        return np.asarray(image.convert("RGB")).astype(int)


@pytest.mark.parametrize("kind", ["texture", "stable"])
def test_pictures(kind: str, models: dict[str, str], loras: dict[str, str], tmp_path: Path) -> None:
    common = ["image", "red brick", "--size", "64x64", "--steps", "2", "--device", "cpu", "-q", "--model", models[kind]]
    common += ["--seamless", "xy"]
    assert main([*common, "--out", str(tmp_path / "plain")]) == 0
    assert main([*common, "--lora", loras[kind], "--out", str(tmp_path / "tuned")]) == 0
    assert main([*common, "--lora", loras[kind], "--lora-scale", "0", "--out", str(tmp_path / "zero")]) == 0
    plain, tuned, zero = (pixels(tmp_path / name, "image.png") for name in ("plain", "tuned", "zero"))
    assert np.abs(tuned - plain).mean() > 1 and np.abs(zero - plain).max() <= 1
    told = json.loads((tmp_path / "tuned" / "image.json").read_text())["request"]
    assert told["lora"] == loras[kind] and Request.from_dict(told).lora_scale is None


def test_materials_and_the_pipeline_afterwards(models: dict[str, str], loras: dict[str, str], tmp_path: Path) -> None:
    pipeline = MaterialPipeline.from_pretrained(models["texture"], device="cpu")
    plain = Request(prompt="red brick", size=(64, 64), steps=2, count=2)
    run_job(plain, tmp_path / "before", pipeline)
    request = Request(prompt="red brick", size=(64, 64), steps=2, count=2, lora=loras["texture"], lora_scale=0.7)
    run_job(request, tmp_path / "tuned", pipeline)
    run_job(plain, tmp_path / "after", pipeline)
    for sample in ("0000", "0001"):
        before, tuned, after = (pixels(tmp_path / k / sample, "basecolor.png") for k in ("before", "tuned", "after"))
        assert np.abs(before - after).max() <= 1 < np.abs(before - tuned).max()


def test_what_cannot_load_is_one_sentence(
    models: dict[str, str], loras: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wish = ["material", "oak", "--size", "64x64", "--device", "cpu", "-q", "--model", models["texture"]]
    wish += ["--out", str(tmp_path / "out")]
    (tmp_path / "pickle.bin").write_bytes(b"no")
    for lora, message in (
        (loras["stable"], "expected a LoRA of this model"),
        (str(tmp_path / "gone"), "there is no"),
        (str(tmp_path / "pickle.bin"), "the pickle"),
    ):
        assert main([*wish, "--lora", lora]) == 2
        (said,) = capsys.readouterr().err.splitlines()
        assert message in said and not (tmp_path / "out").exists()
    assert main([*wish, "--lora-scale", "1"]) == 2
    assert "lora_scale beside lora" in capsys.readouterr().err
    assert main([*wish, "--lora", loras["texture"], "--lora-scale", "9"]) == 2
    assert "from 0 to 2" in capsys.readouterr().err


def test_requests_with_one() -> None:
    values = {"prompt": "oak", "lora": "a/b", "lora_scale": 0.5}
    request = Request.from_dict(values)
    assert Request.from_dict(request.to_dict()) == request and request.to_dict()["lora"] == "a/b"
    assert "lora" not in Request(prompt="oak").to_dict()
    with pytest.raises(ZelligeError, match="only for kind material"):
        Request(kind="maps", image="a.png", lora="a")
    with pytest.raises(ZelligeError, match="the path of a LoRA"):
        Request(prompt="oak", lora=" ")


def test_its_contents_decide_a_fingerprint(models: dict[str, str], loras: dict[str, str], tmp_path: Path) -> None:
    weights = find_weights(models["texture"])
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / WEIGHTS).write_bytes((Path(loras["texture"]) / WEIGHTS).read_bytes())
    base = Request(prompt="oak", model=models["texture"])
    tuned, same = (Request(prompt="oak", model=models["texture"], lora=path) for path in (loras["texture"], str(copy)))
    marks = [fingerprint(made_of(request, weights)) for request in (base, tuned, same)]
    assert marks[1] == marks[2] != marks[0]
    assert _weights(base) != _weights(tuned) == _weights(same)
    with pytest.raises(ZelligeError, match="there is no"):
        made_of(Request(prompt="oak", lora=str(tmp_path / "gone")), weights)


def test_the_page_names_none() -> None:
    with pytest.raises(ZelligeError, match="Expected no LoRA"):
        check_local(Request(prompt="oak", lora="a"))
    request, left = trusted({"prompt": "oak", "lora": "evil", "lora_scale": 2})
    assert request == Request(prompt="oak") and left == ["its LoRA"]
