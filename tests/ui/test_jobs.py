from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from asd.errors import OutputError, SizeError, ZelligeError
from materials.png import read_png, write_png
from tests.ui.conftest import PlainPipeline, hidden
from ui.jobs import JobInterrupted, Progress, run_job
from ui.request import Request

SMALL = Request(prompt="oak", size=(24, 16), seed=3)
NAMES = {"ao.png", "basecolor.png", "height.png", "material.json", "metallic.png", "normal.png", "roughness.png"}


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_one_sample_is_the_folder_itself(tmp_path: Path) -> None:
    pipeline = PlainPipeline()
    result = run_job(SMALL, tmp_path / "a" / "b", pipeline)
    assert {file.name for file in result.files} >= NAMES
    assert sorted(result.files) == list(result.files) == sorted((tmp_path / "a" / "b").iterdir())
    assert hidden(tmp_path) == []
    manifest = json.loads((tmp_path / "a" / "b" / "material.json").read_text(encoding="utf-8"))
    assert Request.from_dict(manifest["request"]) == SMALL
    assert pipeline.calls[0]["size"] == (24, 16)
    assert json.dumps(result.to_dict())


def test_samples_do_not_depend_on_their_company(tmp_path: Path) -> None:
    many = Request(prompt="oak", size=(24, 16), seed=3, count=3)
    result = run_job(many, tmp_path / "many", PlainPipeline())
    assert [sample.folder.name for sample in result.samples] == ["0000", "0001", "0002"]
    assert [sample.seed for sample in result.samples] == [3, 4, 5]
    run_job(many.sample(2), tmp_path / "alone", PlainPipeline())
    assert content(tmp_path / "many" / "0002") == content(tmp_path / "alone")
    assert content(tmp_path / "many" / "0001") != content(tmp_path / "alone")


def test_progress_counts_every_step(tmp_path: Path) -> None:
    seen: list[Progress] = []
    run_job(Request(prompt="oak", size=(8, 8), steps=2, count=2), tmp_path / "out", PlainPipeline(), seen.append)
    assert [(each.sample, each.step) for each in seen] == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert {(each.count, each.steps) for each in seen} == {(2, 2)}


@pytest.mark.parametrize("error", [ValueError("x"), OSError(errno.EIO, "x"), KeyboardInterrupt()])
def test_a_stop_leaves_nothing_half_written(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        run_job(SMALL, tmp_path / "a" / "b", PlainPipeline((0, error)))
    assert list(tmp_path.iterdir()) == []


def test_interrupt_keeps_whole_folders_and_names_the_missing(tmp_path: Path) -> None:
    request = Request(prompt="oak", size=(8, 8), count=4)
    with pytest.raises(JobInterrupted) as caught:
        run_job(request, tmp_path / "out", PlainPipeline((2, KeyboardInterrupt())))
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == ["0000", "0001"]
    assert set(content(tmp_path / "out" / "0001")) >= NAMES
    assert [path.name for path in caught.value.missing] == ["0002", "0003"]
    assert len(caught.value.result.samples) == 2
    assert hidden(tmp_path) == []


def test_an_existing_result_is_replaced_only_on_request(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    run_job(SMALL, out, PlainPipeline())  # empty is fine
    before = content(out)
    with pytest.raises(OutputError, match=r"absent or empty, .*--overwrite"):
        run_job(SMALL, out, PlainPipeline())
    with pytest.raises(KeyboardInterrupt):
        run_job(Request(prompt="oak", size=(8, 8)), out, PlainPipeline((0, KeyboardInterrupt())), overwrite=True)
    assert content(out) == before
    run_job(Request(prompt="oak", size=(8, 8), height_format="exr"), out, PlainPipeline(), overwrite=True)
    assert (out / "height.exr").is_file() and not (out / "height.png").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_overwrite_never_deletes_what_zellige_did_not_write(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_job(SMALL, out, PlainPipeline())
    (out / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"an earlier result and nothing else, but it holds 'notes.txt'"):
        run_job(SMALL, out, PlainPipeline(), overwrite=True)
    (out / "material.json").write_text("[" * 10**5)
    with pytest.raises(OutputError, match="nothing else"):
        run_job(SMALL, out, PlainPipeline(), overwrite=True)
    assert (out / "notes.txt").read_text() == "mine"


def test_overwrite_of_samples_leaves_the_others(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_job(Request(prompt="oak", size=(8, 8), count=3), out, PlainPipeline())
    third = content(out / "0002")
    with pytest.raises(OutputError, match="absent or empty"):
        run_job(Request(prompt="oak", size=(8, 8), count=2), out, PlainPipeline())
    run_job(Request(prompt="elm", size=(9, 8), count=2), out, PlainPipeline(), overwrite=True)
    assert content(out / "0002") == third
    assert json.loads((out / "0001" / "material.json").read_text())["request"]["prompt"] == "elm"


def test_a_file_in_the_way_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "out"):
        pipeline = PlainPipeline()
        with pytest.raises(OutputError, match="an output folder, but got the file"):
            run_job(SMALL, out, pipeline)
        assert pipeline.calls == []


def test_a_name_the_system_refuses(tmp_path: Path) -> None:
    pipeline = PlainPipeline()
    with pytest.raises(OutputError, match="the system refused"):
        run_job(SMALL, tmp_path / ("n" * 300), pipeline)
    assert pipeline.calls == []


def test_size_beyond_memory_is_refused_with_the_estimate(tmp_path: Path) -> None:
    pipeline = PlainPipeline()
    with pytest.raises(SizeError, match=r"of free memory, but 1000000x1000000 pixels takes about 1\.6 PB"):
        run_job(Request(prompt="oak", size=(10**6, 10**6)), tmp_path / "out", pipeline)
    assert pipeline.calls == [] and list(tmp_path.iterdir()) == []


def test_too_little_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ui.jobs.free_space", lambda path: 1_000_000)
    with pytest.raises(OutputError, match=r"Expected 4\.0 MB of free disk for 2 x 8x8 pixels, but .* has 1\.0 MB"):
        run_job(Request(prompt="oak", size=(8, 8), count=2), tmp_path / "out", PlainPipeline())


def test_running_out_of_memory_is_a_size_error(tmp_path: Path) -> None:
    error = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 1 bytes")
    with pytest.raises(SizeError, match="enough memory for 24x16 pixels"):
        run_job(SMALL, tmp_path / "out", PlainPipeline((0, error)))
    with pytest.raises(RuntimeError, match="other"):
        run_job(SMALL, tmp_path / "out", PlainPipeline((0, RuntimeError("other"))))


def test_unknown_device(tmp_path: Path) -> None:
    with pytest.raises(ZelligeError, match="Expected device to be auto, cpu, cuda or mps, but 'gpu' fails"):
        run_job(SMALL, tmp_path / "out", device="gpu")
    assert list(tmp_path.iterdir()) == []


def test_locks_reach_the_pipeline_as_tensors(tmp_path: Path) -> None:
    grey = np.arange(16 * 24, dtype=np.uint16).reshape(1, 16, 24) * 100
    write_png(tmp_path / "height.png", grey, colour="linear")
    Image.new("RGB", (24, 16), (255, 128, 128)).save(tmp_path / "normal.png")
    lock = {"basecolor": "#ff8000", "height": str(tmp_path / "height.png"), "metallic": 1}
    pipeline = PlainPipeline()
    request = Request.from_dict(
        {"prompt": "oak", "size": "24x16", "lock": lock | {"normal": str(tmp_path / "normal.png")}}
    )
    run_job(request, tmp_path / "out", pipeline)
    given = pipeline.calls[0]["lock"]
    assert given["metallic"] == 1.0
    assert torch.equal(given["basecolor"][:, 3, 5], torch.tensor([1.0, 128 / 255, 0.0]))
    assert given["basecolor"].shape == (3, 16, 24)
    expected = torch.from_numpy(read_png(tmp_path / "height.png").pixels.astype(np.float32) / 65535)
    torch.testing.assert_close(given["height"], expected, rtol=0, atol=1e-7)
    torch.testing.assert_close(given["normal"].norm(dim=0), torch.ones(16, 24), rtol=0, atol=1e-6)
    assert given["normal"][0].min() > 0.99  # +X


@pytest.mark.parametrize(
    ("name", "message"),
    [("absent.png", "cannot be read"), ("text.png", "is none"), ("small.png", "24x16 pixels as size says, .* has 8x8")],
)
def test_bad_lock_images(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "text.png").write_text("no image")
    Image.new("L", (8, 8)).save(tmp_path / "small.png")
    request = Request(prompt="oak", size=(24, 16), lock=(("height", str(tmp_path / name)),))
    pipeline = PlainPipeline()
    with pytest.raises(ZelligeError, match=message):
        run_job(request, tmp_path / "out", pipeline)
    assert pipeline.calls == []


def test_a_damaged_lock_image(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).integers(0, 255, (16, 24), dtype=np.uint8)
    Image.fromarray(rows).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:200])
    request = Request(prompt="oak", size=(24, 16), lock=(("height", str(tmp_path / "cut.png")),))
    with pytest.raises(ZelligeError, match="cannot be read"):
        run_job(request, tmp_path / "out", PlainPipeline())
