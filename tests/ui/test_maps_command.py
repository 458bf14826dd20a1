"""Photos through the command, jobs and batches, with an autoencoder of random weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from asd.errors import SizeError, ZelligeError
from tests import tiny
from tests.ui.conftest import hidden
from ui import cli, jobs, memory
from ui.batch import plan_batch, run_batch
from ui.fingerprint import Weights, fingerprint, made_of
from ui.jobs import run_job
from ui.manifest import ManifestError, read_manifest
from ui.request import Request


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.checkpoint(tmp_path_factory.mktemp("checkpoint")))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    low = np.random.default_rng(0).integers(0, 256, (8, 10, 3), dtype=np.uint8)
    path = tmp_path / "photo.jpg"
    Image.fromarray(low).resize((100, 80), Image.Resampling.BICUBIC).save(path, quality=95)
    return path


def manifest_of(folder: Path) -> dict[str, object]:
    return json.loads((folder / "material.json").read_text(encoding="utf-8"))


def test_a_photo_becomes_a_material(
    photo: Path, checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert cli.main(["maps", str(photo), "--out", str(out), "--model", checkpoint]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [str(path) for path in sorted(out.iterdir())]
    made = manifest_of(out)
    assert made["size"] == [100, 80] and made["seamless"] == "none" and "remade" not in made
    request = Request.from_dict(made["request"])  # pyright: ignore[reportArgumentType]
    assert request == Request(kind="maps", image=str(photo), model=checkpoint)
    with Image.open(out / "basecolor.png") as kept, Image.open(photo) as given:
        assert np.array_equal(np.asarray(kept), np.asarray(given))


def test_a_photo_is_made_to_tile_and_the_scores_are_told(
    photo: Path, checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["maps", str(photo), "--out", str(out), "--model", checkpoint, "--seamless", "xy", "--size", "64x48"]
    assert cli.main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["request"] == manifest_of(out)["request"] and told["samples"][0]["folder"] == str(out)
    made = manifest_of(out)
    assert made["size"] == [64, 48] and made["seamless"] == "xy"
    remade = made["remade"]
    assert isinstance(remade, dict) and set(remade) == {"score_before", "score_after", "untouched"}
    assert remade["score_after"] > remade["score_before"] and remade["untouched"] >= 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.png"], "no file absent.png"),
        (["text.png"], "a readable photo, but got text.png"),
        (["photo.jpg", "--seamless", "z"], "seamless to be auto"),
        (["photo.jpg", "--size", "0x4"], "both sides of size"),
        (["tiny.png", "--seamless", "x"], "at least 32 pixels along an axis that is to tile, but got 4x4"),
        (["photo.jpg", "--model", "absent"], "model_index.json or a hub id"),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: list[str],
    message: str,
    photo: Path,
    checkpoint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.png").write_text("hello")
    gradient = np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5
    Image.fromarray(gradient).save("tiny.png")
    before = sorted(tmp_path.iterdir())
    model = [] if "--model" in arguments else ["--model", checkpoint]
    assert cli.main(["maps", *arguments, *model]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and message in captured.err
    assert sorted(tmp_path.iterdir()) == before and hidden(tmp_path) == []


def test_a_photo_too_large_for_the_memory_is_refused_from_its_header(
    photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: memory.BASE_BYTES)
    monkeypatch.setattr(jobs, "_load", lambda model, device: pytest.fail("loaded"))
    with pytest.raises(SizeError, match="but 100x80 pixels takes about"):
        run_job(Request(kind="maps", image=str(photo)), tmp_path / "out")


def test_the_fingerprint_is_of_the_photo_not_of_its_name(photo: Path, tmp_path: Path) -> None:
    def told(path: Path) -> str:
        return fingerprint(made_of(Request(kind="maps", image=str(path)), Weights(None, "w")))

    first, copy = told(photo), tmp_path / "copy.jpg"
    copy.write_bytes(photo.read_bytes())
    assert told(copy) == first
    copy.write_bytes(photo.read_bytes() + b"\0")
    assert told(copy) != first
    with pytest.raises(ZelligeError, match=r"the photo to be an image, but .* cannot be read"):
        told(tmp_path / "absent.jpg")


def test_rows_of_a_batch_may_be_photos(photo: Path, checkpoint: str, tmp_path: Path) -> None:
    path, out = tmp_path / "m.csv", tmp_path / "out"
    header = "id,kind,image,prompt,model,size,steps\n"
    rows = f"a,maps,{photo},,{checkpoint},,\nb,material,,sand,{checkpoint},32x24,1\n"
    path.write_text(header + rows, encoding="utf-8")
    summary = run_batch(plan_batch(path, read_manifest(path), out), device="cpu")
    assert [record.id for record in summary.made] == ["a", "b"] and not summary.failed
    assert manifest_of(out / "a")["size"] == [100, 80]
    assert not plan_batch(path, read_manifest(path), out).todo
    photo.write_bytes(photo.read_bytes() + b"\0")
    with pytest.raises(ManifestError, match="another image"):
        plan_batch(path, read_manifest(path), out)
    path.write_text(header + "a,maps,absent.jpg,,,,\n", encoding="utf-8")
    with pytest.raises(ManifestError, match=r"line 2: .*no file absent\.jpg"):
        plan_batch(path, read_manifest(path), tmp_path / "other")
