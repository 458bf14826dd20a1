"""The trainer on tiny checkpoints of the true classes: it learns, goes on after a kill, refuses what it cannot do."""

from __future__ import annotations

import json
import os
import resource
import shlex
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from asd import AnySizePipeline
from asd.latent_set import Batches, Kind, LatentSet, Sample
from asd.lora import WEIGHTS, lora_loaded
from asd.sizes import Size
from asd.train_arad import LATENTS, SHEET, main, parser
from asd.tunable import load_tunable, size_ids
from asd.tuning import LOSSES, STATE, Tuning, TuningOptions
from asd.views import View
from tests import tiny, tiny_sd

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def numpy_2() -> Iterator[None]:
    with warnings.catch_warnings():
        # diffusers' Euler scheduler hands numpy 2 a tensor
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        yield


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    made = {layout: tiny_sd.checkpoint(layout, folder) for layout in ("sd1.5", "xl")}
    return made | {"material": tiny.checkpoint(folder / "material")}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name, size in (("red brick", (96, 96)), ("moss", (150, 50)), ("sand", (50, 150))):
        low = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(low).resize(size, Image.Resampling.BICUBIC).save(folder / f"{name}.png")
    return folder


def losses(out: Path) -> list[float]:
    rows = [json.loads(line) for line in (out / LOSSES).read_text().splitlines()]
    steps = [row for row in rows if "loss" in row]
    assert [row["step"] for row in steps] == list(range(1, len(steps) + 1))
    return [row["loss"] for row in steps]


@pytest.mark.parametrize("kind", ["sd1.5", "xl", "material"])
def test_it_learns_and_the_result_loads(
    kind: str, folders: dict[str, Path], images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("asd.tunable.PAINT_STEPS", 3)
    out = tmp_path / "out"
    wish = [str(images), "--model", str(folders[kind]), "--out", str(out), "--steps", "24", "--batch", "2"]
    wish += ["--rank", "4", "--rate", "0.03", "--seamless", "xy", "--conv", "--validation", str(images)]
    wish += ["--device", "cpu", "-q"]
    assert main([*wish, *(["--sheet"] if kind == "sd1.5" else [])]) == 0
    first, last, *paths = capsys.readouterr().out.splitlines()
    before, after = (json.loads(line)["validation"] for line in (first, last))
    assert after["all"] < before["all"] * 0.98
    assert set(before) == set(after) and len(before) == 4  # three sizes, and all
    assert len(losses(out)) == 24
    assert paths == [str(out / name) for name in (WEIGHTS, SHEET)][: 2 if kind == "sd1.5" else 1]
    names = {name.partition(".lora_")[0] for name in load_file(out / WEIGHTS)}
    assert any(name.endswith("conv1") for name in names) and any(name.endswith("to_q") for name in names)
    if kind == "material":
        fresh = load_tunable(str(folders[kind]))
        with lora_loaded(fresh.pipeline, out):  # pyright: ignore[reportAttributeAccessIssue] - a TunableMaterial's
            pass
        return
    pipe = AnySizePipeline.from_pretrained(folders[kind])
    plain = pipe.base
    plain.set_progress_bar_config(disable=True)
    options: dict[str, Any] = {"num_inference_steps": 1, "height": 64, "width": 64, "output_type": "latent"}
    without = plain("moss", generator=torch.Generator().manual_seed(0), **options).images
    plain.load_lora_weights(out)
    assert (plain("moss", generator=torch.Generator().manual_seed(0), **options).images - without).abs().max() > 1e-2


def test_it_goes_on_after_kill_9(folders: dict[str, Path], images: Path, tmp_path: Path) -> None:
    common = [str(images), "--model", str(folders["material"]), "--batch", "2", "--rank", "2", "--rate", "0.01", "-q"]
    common += ["--accumulate", "2", "--views", "2", "--save-every", "3", "--device", "cpu", "--seamless", "x"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    command = [sys.executable, "-W", "ignore", "-m", "asd.train_arad", *common, "--out", str(killed), "--steps", "500"]
    running = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 240
        while not (killed / STATE).is_file():
            assert time.monotonic() < deadline and running.poll() is None
            time.sleep(0.02)
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait()
    done = len((killed / LOSSES).read_text().splitlines())
    assert 3 <= done < 500 and {path.suffix for path in killed.iterdir()} <= {".safetensors", ".json", ".jsonl", ".tmp"}
    with (killed / LOSSES).open("a") as log:
        log.write('{"step": 4')  # as a kill in the middle of a line leaves it
    for out in (killed, whole):
        assert main([*common, "--out", str(out), "--steps", str(done + 3)]) == 0
    assert np.allclose(losses(killed), losses(whole), rtol=1e-4)  # another process, other threads
    ours, theirs = (load_file(out / WEIGHTS) for out in (killed, whole))
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-4) for name in theirs)


def test_stopped_in_one_process_it_is_the_same_to_the_bit(
    folders: dict[str, Path], images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wish = [str(images), "--model", str(folders["sd1.5"]), "--batch", "2", "--rank", "2", "--steps", "7"]
    wish += ["--save-every", "2", "--rate", "0.01", "--device", "cpu", "-q", "--out"]
    assert main([*wish, str(tmp_path / "whole")]) == 0
    step = Tuning._train_step

    def stopping(self: Tuning) -> Any:
        if self.step == 5:
            raise KeyboardInterrupt
        return step(self)

    out = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(Tuning, "_train_step", stopping)
        assert main([*wish, str(out)]) == 130
    stamp = (out / LATENTS).stat().st_mtime_ns
    assert main([*wish, str(out)]) == 0
    assert losses(out) == losses(tmp_path / "whole") and (out / LATENTS).stat().st_mtime_ns == stamp
    ours, theirs = (load_file(folder / WEIGHTS) for folder in (out, tmp_path / "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_seamless_batches_are_on_a_torus(folders: dict[str, Path], tmp_path: Path) -> None:
    from accelerate import Accelerator

    model = load_tunable(str(folders["material"]))
    kind = Kind(Size(256, 128), "x")
    view = View(kind.size, kind.axes, kind.size, kind.size, 0, 0)
    group = ([Sample(view, "moss")], torch.randn(1, 4, 16, 32, generator=torch.Generator().manual_seed(0)).half())
    tuning = Tuning(model, LatentSet({kind: group}), TuningOptions(rank=2), tmp_path, "a", Accelerator(cpu=True))
    clean, noise = (torch.randn(1, 4, 16, 32, generator=torch.Generator().manual_seed(i)) for i in range(2))

    def loss(columns: int, rows: int) -> float:
        shift = (rows, columns)
        rolled = (clean.roll(shift, (-2, -1)), noise.roll(shift, (-2, -1)))
        with torch.no_grad():
            return float(tuning._loss(group[0], *rolled, torch.tensor([0.4]), ["moss"], kind))

    still = loss(0, 0)
    assert abs(loss(12, 0) - still) < 1e-5 * still < abs(loss(0, 8) - still)


def test_xl_is_told_sizes_and_crops(folders: dict[str, Path]) -> None:
    model = load_tunable(str(folders["xl"]))
    view = View(Size(64, 48), "none", Size(300, 200), Size(72, 48), 5, 0)
    assert size_ids(view) == [200, 300, 0, 5, 48, 64]
    seen: list[Any] = []

    class Watched(torch.nn.Module):
        def forward(self, *args: Any, **options: Any) -> Any:
            seen.append(options["added_cond_kwargs"])
            return model.unet(*args, **options)

    text = [model.embed("moss"), model.embed("")]
    assert not bool(text[1][0].any())  # what its guidance takes for no prompt
    noisy = torch.zeros(2, 4, 12, 16)
    made = model.predict(Watched(), noisy, torch.tensor([5, 9]), text, [view, view._replace(left=0)])
    assert made.shape == noisy.shape
    assert seen[0]["time_ids"].tolist() == [[200, 300, 0, 5, 48, 64], [200, 300, 0, 0, 48, 64]]
    assert seen[0]["text_embeds"].shape == (2, 8)


def test_every_sample_comes_once_an_epoch() -> None:
    counts = {Kind(Size(8, 8), "none"): 7, Kind(Size(16, 8), "x"): 3}
    batches = Batches(counts, 2, seed=5)
    epoch = [batches[i] for i in range(batches.length)]
    for kind, count in counts.items():
        places = [place for found, part in epoch if found == kind for place in part]
        assert set(places) == set(range(count)) and len(places) == count + count % 2
    assert [Batches(counts, 2, seed=5)[i] for i in range(batches.length)] == epoch
    assert [batches[batches.length + i] for i in range(batches.length)] != epoch
    assert batches[0] == epoch[0]  # whatever was asked for before


def test_a_broken_image_is_left_out(
    folders: dict[str, Path], images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in images.iterdir():
        (tmp_path / "some" / path.name).parent.mkdir(exist_ok=True)
        (tmp_path / "some" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "some" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    wish = ["--model", str(folders["material"]), "--steps", "1", "--rank", "1", "--device", "cpu", "-q"]
    assert main([str(tmp_path / "some"), "--out", str(tmp_path / "out"), *wish]) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert len(told) == 1 and "broken.png" in told[0]
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "broken.png").write_bytes(b"no")
    assert main([str(tmp_path / "bad"), "--out", str(tmp_path / "none"), *wish]) == 2
    assert "at least one image that can be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"folder": "nothing"}, "a folder of images"),
        ({"folder": "empty"}, "found none"),
        ({"--out": "file"}, "system refused"),
        ({"--out": "file/out"}, "system refused"),
        ({"--out": "full"}, "holds other files"),
        ({"--out": "images/out"}, "outside of the folder of images"),
        ({"--model": "empty"}, "model_index.json"),
        ({"--model": "wrong"}, "but got one of FluxPipeline"),
        ({"--model": "pickled"}, "does not load"),
        ({"--steps": "0"}, "steps of at least 1"),
        ({"--rank": "0"}, "a rank from 1"),
        ({"--rate": "nan"}, "a rate above 0"),
        ({"--batch": "two"}, "invalid int value"),
        ({"--drop": "2"}, "drop from 0 to 1"),
        ({"--views": "0"}, "views from 1"),
        ({"--ratios": "4:1..1:4"}, "narrowest ratio first"),
        ({"--ratios": "9:1"}, "there are none"),
        ({"--resolution": "100"}, "that 16 divides"),
        ({"--precision": "fp16"}, "on a GPU alone"),
        ({"--alpha": "0"}, "alpha above 0"),
        ({"--validation": "empty"}, "found none"),
    ],
)
def test_bad_input_is_one_sentence(
    change: dict[str, str], message: str, folders: dict[str, Path], images: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "images").symlink_to(images)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("a")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    pickled = tmp_path / "pickled"
    if change.get("--model") == "pickled":
        import shutil

        shutil.copytree(folders["sd1.5"], pickled)
        weights = pickled / "unet" / "diffusion_pytorch_model.safetensors"
        torch.save(load_file(weights), weights.with_suffix(".bin"))
        weights.unlink()
    options = {"--out": "out", "--steps": "1", "--device": "cpu"} | {k: v for k, v in change.items() if k != "folder"}
    for name in ("--out", "--model", "--validation"):
        if name in options:
            options[name] = str(tmp_path / options[name])
    options.setdefault("--model", str(folders["sd1.5"]))
    folder = tmp_path / change["folder"] if "folder" in change else images
    assert main([str(folder), *(part for pair in options.items() for part in pair), "-q"]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("train_arad: ")]
    assert message in said[-1] and "Expected" in said[-1]
    assert not any((tmp_path / "out" / name).exists() for name in (WEIGHTS, STATE))
    assert (tmp_path / "full" / "notes.txt").read_text() == "mine"


def test_a_full_disk_leaves_nothing_half_written(
    folders: dict[str, Path], images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    wish = [str(images), "--model", str(folders["material"]), "--out", str(out), "--device", "cpu", "-q"]
    wish += ["--rank", "64"]
    assert main([*wish, "--steps", "1"]) == 0
    kept = {path.name: path.read_bytes() for path in out.iterdir() if path.suffix == ".safetensors"}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(kept[STATE]) // 2, before[1]))
    try:
        assert main([*wish, "--steps", "2"]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "the system refused" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.suffix == ".safetensors"} == kept
    assert not list(out.glob(".*.tmp")) and main([*wish, "--steps", "2"]) == 0


def test_a_folder_of_another_training_is_refused(
    folders: dict[str, Path], images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    wish = [str(images), "--model", str(folders["material"]), "--out", str(out), "--device", "cpu", "-q", "--rank", "2"]
    assert main([*wish, "--steps", "2"]) == 0
    assert main([*wish, "--steps", "3"]) == 0  # more steps are the same training
    assert len(losses(out)) == 3
    kept = (out / WEIGHTS).read_bytes()
    assert main([*wish, "--steps", "4", "--rate", "0.5"]) == 2
    assert "with other options" in capsys.readouterr().err
    (out / STATE).write_bytes(b"x" * 60)
    assert main([*wish, "--steps", "4"]) == 2
    assert "damaged" in capsys.readouterr().err and (out / WEIGHTS).read_bytes() == kept


def test_the_document_s_commands_are_accepted() -> None:
    lines = (ROOT / "docs" / "tuning.md").read_text(encoding="utf-8").splitlines()
    commands = [line.split("-m asd.train_arad ")[1] for line in lines if " -m asd.train_arad " in line]
    assert len(commands) == 3
    for command in commands:
        assert parser().parse_args(shlex.split(command)).out == Path("tuned")
