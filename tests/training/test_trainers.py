"""Both trainers from a pack to files that load again: two steps on tiny networks."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests import tiny
from textile_metric import judge
from textile_metric.network import TileNet
from training import autoencoder, diffusion, distill, tileability
from training.bank import Bank
from training.models import LATENT_CHANNELS, new_unet


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.pack(tmp_path_factory.mktemp("pack") / "files")


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


def run(main: Callable[[], None], monkeypatch: pytest.MonkeyPatch, *more: str, **options: object) -> None:
    arguments = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    monkeypatch.setattr(sys, "argv", ["trainer", *arguments, *more])
    main()


def test_autoencoder(packs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(
        autoencoder.main,
        monkeypatch,
        "--no-compile",
        packs=packs,
        out=tmp_path,
        max_steps=2,
        batch=4,
        size=64,
        pool=8,
        width=8,
    )
    model = tiny.AutoencoderTiny.from_pretrained(tmp_path / "vae")
    assert model.config["scaling_factor"] != 1.0 and model.config["latent_channels"] == LATENT_CHANNELS
    row = json.loads((tmp_path / "autoencoder.jsonl").read_text().splitlines()[0])
    assert row["step"] == 1 and row["basecolor"] > 0


def test_diffusion(packs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.autoencoder(latents=LATENT_CHANNELS).save_pretrained(tmp_path / "vae")
    tiny.text_folders(tmp_path / "text", width=384, tokenizer=".", encoder=".")
    monkeypatch.setattr(diffusion, "SHEET", diffusion.SHEET[:4])
    monkeypatch.setattr(diffusion, "ASPECTS", diffusion.ASPECTS[:1])
    run(
        diffusion.main,
        monkeypatch,
        *("--no-compile", "--channels", "32", "32", "32"),
        **{"packs": packs, "vae": tmp_path / "vae", "text": tmp_path / "text", "out": tmp_path},
        **{"max_steps": 2, "bank": 34, "real_share": 0.9, "chunk": 2, "batch": 2},
    )
    state = load_file(tmp_path / "unet.safetensors")
    new_unet((32, 32, 32)).load_state_dict({k: v.float() for k, v in state.items()})
    assert all(torch.isfinite(v).all() for v in state.values())
    assert (tmp_path / "sheet.jpg").is_file()
    (tmp_path / "sheet.jpg").unlink()
    teacher = (tmp_path / "unet.safetensors").rename(tmp_path / "teacher.safetensors")
    run(
        distill.main,
        monkeypatch,
        *("--no-compile", "--channels", "32", "32", "32"),
        **{"packs": packs, "vae": tmp_path / "vae", "text": tmp_path / "text", "out": tmp_path, "resume": teacher},
        **{"max_steps": 3, "bank": 34, "real_share": 0.9, "chunk": 2, "batch": 2},
        **{"adversary": 0.02, "other_shapes": 0.0, "renew": 2},
    )
    few = load_file(tmp_path / "unet.safetensors")
    assert all(torch.isfinite(v).all() for v in few.values())
    assert any(not torch.equal(v, state[name]) for name, v in few.items())
    assert (tmp_path / "sheet.jpg").is_file()


def test_four_steps_follow_a_teacher_whose_paths_are_straight() -> None:
    """Where the teacher's velocity is constant along each path, its own step is the best there is: no loss."""
    z = torch.randn(3, 4, 8, 8)
    one = torch.ones(3)
    batch = Bank(z, torch.zeros(3, 2, 384), torch.ones(3, 2), torch.zeros(3, 384), one * 0, one, one, one)
    empty = (torch.zeros(1, 2, 384), torch.ones(1, 2), torch.zeros(1, 384))
    noise = torch.randn_like(z)

    class Straight(torch.nn.Module):
        def forward(self, x: torch.Tensor, *_: object, **__: object) -> tuple[torch.Tensor]:
            return ((noise - z).repeat(len(x) // 3, 1, 1, 1),)

    for window in range(len(distill.SUBSTEPS)):
        place = torch.tensor([0.0, 0.3, 0.9])
        loss, arrived = distill.flow_loss(Straight(), Straight(), batch, window, empty, 4.0, noise, place)
        end = distill.LEVELS[window + 1]
        assert float(loss) < 1e-5
        torch.testing.assert_close(arrived, (1 - end) * z + end * noise, atol=1e-4, rtol=0)


def test_tileability(packs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tileability, "SIDES", (32, 48))
    monkeypatch.setattr(tileability, "SIZES", (48, 32))
    monkeypatch.setattr(judge, "SIDE", 64)
    run(
        tileability.main, monkeypatch, packs=packs, out=tmp_path, max_steps=2, batch=4, each=1, attack=2, held_batches=1
    )
    state = load_file(tmp_path / "tileability.safetensors")
    TileNet().load_state_dict({k: v.float() for k, v in state.items()})
    assert all(torch.isfinite(v).all() for v in state.values())
    rows = [json.loads(line) for line in (tmp_path / "tileability.jsonl").read_text().splitlines()]
    assert rows[0]["clean"] > 0


def test_calibration_finds_the_weights_and_offset_that_made_the_truth() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(40000, 2, generator=generator) * 3
    likely = torch.sigmoid(features @ torch.tensor([0.5, 1.5]) + 1)
    weights, offset = tileability.fit(features, (torch.rand(40000, generator=generator) < likely).float())
    assert abs(weights[0] - 0.5) < 0.03 and abs(weights[1] - 1.5) < 0.08 and abs(offset - 1) < 0.1


def test_area_under_the_curve_by_counting() -> None:
    bad, good = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, 3.0])
    pairs = [1.0 if g > b else 0.5 if g == b else 0.0 for b in bad.tolist() for g in good.tolist()]
    assert tileability.auc(bad, good) == pytest.approx(sum(pairs) / len(pairs))
