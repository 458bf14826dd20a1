"""Variations through the command, jobs and fingerprints, on a checkpoint of random weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from asd.errors import ZelligeError
from materials.files import load_material
from tests import tiny
from tests.ui.conftest import PlainPipeline
from ui import cli
from ui.estimate import work
from ui.fingerprint import Weights, fingerprint, made_of
from ui.jobs import memory_needed, run_job
from ui.manifest import ManifestError, read_manifest
from ui.request import Request
from ui.sources import load_variation


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.checkpoint(tmp_path_factory.mktemp("checkpoint")))


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    pixels = np.zeros((48, 64), np.uint8)
    pixels[10:30, 20:50] = 255
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


def test_a_region_of_an_earlier_result_is_made_anew(
    checkpoint: str, mask: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    common = ["--size", "64x48", "--steps", "1", "--model", checkpoint]
    assert cli.main(["material", "brick", "--out", str(first), *common]) == 0
    variation = ["--image", str(first), "--mask", str(mask)]
    assert cli.main(["material", "moss", "--out", str(second), "--seed", "3", *variation, *common]) == 0
    old, new = load_material(first), load_material(second)
    kept = torch.from_numpy(np.asarray(Image.open(mask)).copy()) == 0
    for name in ("basecolor", "height", "roughness", "metallic"):
        assert torch.equal(getattr(new, name)[:, kept], getattr(old, name)[:, kept])
    assert not torch.equal(new.basecolor, old.basecolor)
    assert Request.from_dict(Request(prompt="x", image="a", vary=2).to_dict()).amount == 0.3
    capsys.readouterr()
    assert cli.main(["material", "moss", "--out", str(tmp_path / "third"), *variation, "--size", "32x32"]) == 2
    assert "of the result's 32x32 pixels beside a mask, but got 64x48" in capsys.readouterr().err


def test_the_pipeline_gets_what_was_asked(mask: Path, tmp_path: Path) -> None:
    pipeline = PlainPipeline()
    asked = Request(prompt="oak", size=(64, 48), count=2, image=str(mask), strength=0.5, mask=str(mask), vary=9)
    run_job(asked, tmp_path / "out", pipeline)
    assert [call["seed"] for call in pipeline.calls] == [0, 1]
    for call in pipeline.calls:
        assert (call["strength"], call["neighbour"], call["amount"]) == (0.5, 9, 0.3)
        assert call["image"].shape == (3, 48, 64) and call["mask"].shape == (1, 48, 64)
    assert load_variation(Request(prompt="oak")) == {}


def test_fingerprints_are_of_the_images(mask: Path, tmp_path: Path) -> None:
    folder = tmp_path / "wall"
    run_job(Request(prompt="oak", size=(24, 16)), folder, PlainPipeline())

    def told(image: Path) -> str:
        return fingerprint(made_of(Request(prompt="oak", image=str(image), mask=str(mask)), Weights(None, "w")))

    first = told(folder)
    folder.rename(tmp_path / "moved")
    assert told(tmp_path / "moved") == first
    (tmp_path / "moved" / "height.png").write_bytes(b"edited")
    assert told(tmp_path / "moved") != first
    with pytest.raises(ZelligeError, match="the photo to be an image"):
        told(tmp_path / "absent.png")


def test_faults_of_rows_are_found_before_anything_runs(mask: Path, tmp_path: Path) -> None:
    from ui.batch import plan_batch

    path = tmp_path / "m.jsonl"
    (tmp_path / "empty").mkdir()
    faulty = f'{{"id": "a", "prompt": "oak", "image": "{tmp_path / "empty"}"}}\n'
    path.write_text(faulty + f'{{"id": "b", "prompt": "oak", "image": "{mask}", "mask": "absent.png"}}\n')
    with pytest.raises(ManifestError) as caught:
        plan_batch(path, read_manifest(path), tmp_path / "out")
    assert [problem.line for problem in caught.value.problems] == [1, 2]
    assert "a material folder" in caught.value.problems[0].message
    assert "Expected a mask" in caught.value.problems[1].message


def test_a_guided_material_says_so(checkpoint: str, tmp_path: Path) -> None:
    common = ["--size", "64x48", "--steps", "1", "--model", checkpoint, "--seamless", "none"]
    assert cli.main(["material", "brick", "--out", str(tmp_path / "made"), "--guide", "x", *common]) == 0
    made = json.loads((tmp_path / "made" / "material.json").read_text(encoding="utf-8"))
    assert (made["request"]["seamless"], made["request"]["guide"], made["seamless"]) == ("none", "x", "x")
    assert cli.main(["material", "brick", "--out", str(tmp_path / "plain"), *common]) == 0
    assert "guide" not in json.loads((tmp_path / "plain" / "material.json").read_text(encoding="utf-8"))["request"]
    plain, guided = Request(prompt="oak", seamless="none"), Request(prompt="oak", seamless="none", guide="x")
    assert memory_needed(guided) > 2 * memory_needed(plain) and work(guided) > 2 * work(plain)
    told = [fingerprint(made_of(request, Weights(None, "w"))) for request in (plain, guided)]
    assert told[0] != told[1]


def test_a_refined_material_says_so(checkpoint: str, tmp_path: Path) -> None:
    common = ["--size", "96x64", "--steps", "1", "--model", checkpoint]
    assert cli.main(["material", "brick", "--out", str(tmp_path / "made"), "--refine", "2", *common]) == 0
    made = json.loads((tmp_path / "made" / "material.json").read_text(encoding="utf-8"))
    assert (made["request"]["refine"], made["size"]) == (2, [96, 64])
    assert cli.main(["material", "brick", "--out", str(tmp_path / "plain"), *common]) == 0
    plain = json.loads((tmp_path / "plain" / "material.json").read_text(encoding="utf-8"))
    assert "refine" not in plain["request"]
    manifest = tmp_path / "m.csv"
    manifest.write_text("id,prompt,size,refine\na,oak,2048x2048,4\nb,oak,2048x2048,\n", encoding="utf-8")
    refined, whole = (row.request for row in read_manifest(manifest))
    assert (refined.refine, whole.refine) == (4, 1)
    assert memory_needed(refined) < 3e9 < memory_needed(whole)
    assert work(whole) < work(refined) < 2 * work(whole)
    told = [fingerprint(made_of(request, Weights(None, "w"))) for request in (refined, whole)]
    assert told[0] != told[1]


def test_a_refused_refinement_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["material", "brick", "--refine", "5", "--out", str(tmp_path / "made")]) == 2
    assert "expected refine to be 1, 2, 4 or 8, but got 5" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()
