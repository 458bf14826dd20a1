"""Canvases in files: what the whole image gives, and what a killed run goes on from."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from asd import AnySizePipeline, upscale
from asd.big import RESULT, Cost, Enlargement, enlarge, enlargement_cost
from asd.canvas_file import Enlarged, create, write_tiff
from asd.checkpoint import StepCheckpoint
from asd.errors import CheckpointError, OutputError, ZelligeError
from asd.resample import resample, resample_window
from asd.vae_layers import Span
from tests import tiny_sd

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> AnySizePipeline:
    made = AnySizePipeline(tiny_sd.pipeline("sd2.1", tmp_path_factory.mktemp("words")))
    made.set_progress_bar_config(disable=True)
    return made


def photo(width: int = 48, height: int = 40) -> Any:
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.random((1, 3, 5, 6), np.float32))
    fine = resample(coarse, (height, width), wrap_x=True, wrap_y=True)[0].clamp(0, 1)
    return (fine * 255).round().to(torch.uint8).numpy()


@pytest.mark.parametrize("wrap", [(False, False), (True, False), (True, True)])
def test_a_window_of_the_resampled_image(wrap: tuple[bool, bool]) -> None:
    small = photo()
    whole = resample(torch.from_numpy(small).float()[None], (93, 77), wrap_y=wrap[0], wrap_x=wrap[1])[0]
    part = resample_window(small, (93, 77), (10, 61), (50, 77), wrap=wrap)
    assert (part - whole[:, 10:61, 50:77]).abs().max() < 1e-3  # of 255
    around = resample_window(small, (93, 77), (-2, 1), (0, 4), wrap=wrap)
    beyond = whole[:, [91, 92, 0] if wrap[0] else [0, 0, 0], :4]
    assert (around - beyond).abs().max() < 1e-3


@pytest.mark.parametrize("faithful", [False, True])
@pytest.mark.parametrize(("size", "seamless"), [((93, 77), "none"), ((96, 80), "xy"), ((96, 67), "x")])
def test_files_hold_what_memory_would(
    size: tuple[int, int], seamless: Any, faithful: bool, pipe: AnySizePipeline, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"strength": 0.5, "steps": 4, "seamless": seamless, "seed": 5, "faithful": faithful}
    seen: list[tuple[int, int]] = []
    model = pipe.latent_model("a")
    made = enlarge(
        photo(), model, tmp_path, Enlargement(size=size, **options), callback=lambda *at: seen.append(at)
    )
    whole = upscale(photo().transpose(1, 2, 0), pipe, size=size, prompt="a", output_type="np", **options)
    assert made.shape == (3, size[1], size[0]) and seen == [(i, 2) for i in (1, 2)]
    # rounded to bytes, and in one case to half precision
    assert np.abs(made.transpose(1, 2, 0) / 255 - whole).max() < 1 / 255
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job.json", RESULT]


@pytest.mark.parametrize("name", ["ddim", "dpm", "euler ancestral", "heun", "pndm"])
def test_a_stopped_run_goes_on_to_the_same_bytes(name: str, pipe: AnySizePipeline, tmp_path: Path) -> None:
    from diffusers import (
        DDIMScheduler,
        DPMSolverMultistepScheduler,
        EulerAncestralDiscreteScheduler,
        HeunDiscreteScheduler,
        PNDMScheduler,
    )

    kinds: dict[str, Any] = {
        "ddim": DDIMScheduler,
        "dpm": DPMSolverMultistepScheduler,
        "euler ancestral": EulerAncestralDiscreteScheduler,
        "heun": HeunDiscreteScheduler,
        "pndm": lambda: PNDMScheduler(skip_prk_steps=True),
    }
    with warnings.catch_warnings():
        # diffusers' Euler and Heun schedulers hand numpy 2 a tensor
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        job = Enlargement(size=(96, 80), strength=0.7, steps=6, seed=1)
        results = []
        for folder in (tmp_path / "whole", tmp_path / "stopped"):
            for stop in (99,) if folder.name == "whole" else (2, 3, 99):
                model = pipe.latent_model("a")
                model.scheduler = kinds[name]()  # as a new process has it

                def stopper(step: int, steps: int, stop: int = stop) -> None:
                    del steps
                    if step == stop:
                        raise KeyboardInterrupt

                try:
                    results.append(np.array(enlarge(photo(), model, folder, job, callback=stopper)))
                except KeyboardInterrupt:
                    assert stop < 99
    assert len(results) == 2 and np.array_equal(*results)


HOST = """
    import hashlib, os, random, signal, sys, tempfile, time, warnings
    from pathlib import Path
    warnings.simplefilter("ignore")
    import torch
    torch.set_num_threads(1)
    from asd.big import Enlargement, enlarge
    from asd.pipeline import AnySizePipeline
    from tests import tiny_sd
    from tests.asd.test_big import photo

    kills, folder = int(sys.argv[1]), Path(sys.argv[2])
    model = AnySizePipeline(tiny_sd.pipeline("sd2.1", folder)).latent_model("a")
    job = Enlargement(size=(96, 80), strength=0.8, steps=5, seed=5, seamless="x", faithful=True)

    def child(out):
        pid = os.fork()
        if pid == 0:
            enlarge(photo(), model, out, job)
            os._exit(0)
        return pid

    began = time.monotonic()
    assert os.waitpid(child(folder / "whole"), 0)[1] == 0
    span = time.monotonic() - began
    wanted = (folder / "whole" / "result.npy").read_bytes()
    dice, killed, ended, k = random.Random(1), 0, 0, 0
    while killed < kills:
        pid = child(folder / f"job-{k}")
        time.sleep(dice.uniform(0, 0.6 * span))
        os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        killed += os.WIFSIGNALED(status)
        if status == 0:
            assert (folder / f"job-{k}" / "result.npy").read_bytes() == wanted
            ended, k = ended + 1, k + 1
    while os.waitpid(child(folder / f"job-{k}"), 0)[1] != 0:
        raise SystemExit("a run that nobody killed failed")
    assert (folder / f"job-{k}" / "result.npy").read_bytes() == wanted
    print(killed, ended + 1)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the test forks, to spare each run the loading of torch")
def test_kill_9_at_any_moment_changes_no_byte(tmp_path: Path) -> None:
    kills = int(os.environ.get("ZELLIGE_KILLS", "6"))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(HOST), str(kills), str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=600, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    killed, finished = map(int, done.stdout.split()[-2:])
    assert killed == kills and finished >= 1


def test_a_kill_before_the_first_file_leaves_a_folder_to_go_on_in(pipe: AnySizePipeline, tmp_path: Path) -> None:
    model, job = pipe.latent_model("a"), Enlargement(size=(96, 80), strength=0.5, steps=4)
    (tmp_path / ".job.json.17-00c0ffee.tmp").write_text('{"half')
    enlarge(photo(), model, tmp_path, job)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job.json", RESULT]


def test_jobs_that_cannot_go_on(pipe: AnySizePipeline, tmp_path: Path) -> None:
    model, job = pipe.latent_model("a"), Enlargement(size=(96, 80), strength=0.5, steps=4)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    with pytest.raises(ZelligeError, match="other files"):
        enlarge(photo(), model, tmp_path / "other", job)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="refused"):
        enlarge(photo(), model, tmp_path / "file" / "job", job)

    def stop(step: int, steps: int) -> None:
        del steps
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        enlarge(photo(), model, tmp_path / "job", job, callback=stop)
    with pytest.raises(ZelligeError, match="that of another"):
        enlarge(photo(), model, tmp_path / "job", Enlargement(size=(96, 80), strength=0.5, steps=5))
    saved = tmp_path / "job" / "0-step.safetensors"
    saved.write_bytes(saved.read_bytes()[:200])
    with pytest.raises(CheckpointError, match="damaged"):
        enlarge(photo(), model, tmp_path / "job", job)


def test_a_checkpoint_of_another_job_is_refused(pipe: AnySizePipeline, tmp_path: Path) -> None:
    StepCheckpoint(tmp_path / "a.safetensors", "one").save(0, torch.zeros(1), pipe.scheduler, None)
    with pytest.raises(CheckpointError, match="of another"):
        StepCheckpoint(tmp_path / "a.safetensors", "two").load(pipe.scheduler, None)


def test_the_cost_is_known_before(pipe: AnySizePipeline) -> None:
    job = Enlargement(size=(256, 256), strength=0.5, steps=4, seamless="xy")
    cost = enlargement_cost((64, 64), pipe.latent_model("a"), job)
    # two passes of two steps, on 2x2 and 4x4 tiles
    assert cost == Cost(calls=2 * 4 + 2 * 16, steps=4, disk=cost.disk) and cost.disk > 256 * 256 * 3


def test_an_enlarged_picture_is_read_in_rectangles() -> None:
    source = Enlarged(photo(), (80, 96), (84, 96), (False, True))
    tile = source.read(Span(78, 84), Span(-3, 5), torch.device("cpu"))
    assert tile.shape == (1, 3, 6, 8) and torch.equal(tile[:, :, 1], tile[:, :, 5])


def test_tiff_is_tiled_and_whole(tmp_path: Path) -> None:
    import tifffile

    pixels = create(tmp_path / "canvas.npy", (300, 517))
    pixels[:] = np.random.default_rng(0).integers(0, 256, pixels.shape, np.uint8)
    write_tiff(tmp_path / "a.tif", pixels, description="zellige")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        page: Any = file.pages[0]
        assert page.is_tiled and page.shape == (517, 300, 3)
        assert np.array_equal(page.asarray().transpose(2, 0, 1), pixels)
    with pytest.raises(OutputError, match="refused"):
        write_tiff(tmp_path / "no" / "a.tif", pixels)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tif", "canvas.npy"]


def test_a_full_disk_is_said_before(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="Expected room for"):
        create(tmp_path / "canvas.npy", (2**24, 2**24))
    assert not list(tmp_path.iterdir())
