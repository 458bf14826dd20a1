"""Denoising in tiles: against the ordinary loop, with diffusers' own schedulers and a real network."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import product
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from asd.clean import mix_at
from asd.errors import ZelligeError
from asd.sampling import StepDone, denoise, predict
from asd.seamless import Seamless, SeamlessAxes
from asd.tiles import Border, Method, Place, TileError, TilePlan
from textile_metric.torchvision_guard import guard_torchvision

guard_torchvision()

from diffusers import (  # noqa: E402 - the guard must come first
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    UNet2DModel,
)

METHODS: tuple[Method, ...] = get_args(Method)
AXES: tuple[SeamlessAxes, ...] = get_args(SeamlessAxes)
SCHEDULERS: dict[str, Any] = {
    "ddim": DDIMScheduler,
    "euler": EulerDiscreteScheduler,
    "euler ancestral": EulerAncestralDiscreteScheduler,
    "dpm++ 2m flow": lambda: DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
    "dpm++ 2m": DPMSolverMultistepScheduler,
    "flow euler": FlowMatchEulerDiscreteScheduler,
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


@pytest.fixture(scope="module")
def unet() -> Any:
    torch.manual_seed(0)
    net: Any = UNet2DModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=8,
    )
    return net.eval().requires_grad_(False)


def called(unet: Any) -> Any:
    return lambda tiles, timestep, places: unet(tiles, timestep, return_dict=False)[0]


def ready(name: str, steps: int = 4) -> Any:
    return timed(SCHEDULERS[name], steps)


def timed(make: Any, steps: int) -> Any:
    with warnings.catch_warnings():
        # diffusers' schedulers hand tensors to NumPy functions
        warnings.filterwarnings("ignore", "__array__ implementation doesn't accept a copy", DeprecationWarning)
        scheduler = make()
        scheduler.set_timesteps(steps)
    return scheduler


def ordinary(unet: Any, latents: Tensor, scheduler: Any, generator: torch.Generator | None = None) -> Tensor:
    """The loop of diffusers' pipelines."""
    options = {} if generator is None else {"generator": generator}
    with torch.no_grad():
        for timestep in scheduler.timesteps:
            scaled = latents
            if hasattr(scheduler, "scale_model_input"):
                scaled = scheduler.scale_model_input(latents, timestep)
            answer = unet(scaled, timestep, return_dict=False)[0]
            latents = scheduler.step(answer, timestep, latents, **options, return_dict=False)[0]
    return latents


@pytest.mark.parametrize("method", ["fstd", "none", "overlap50", "published"])
@pytest.mark.parametrize("name", list(SCHEDULERS))
def test_one_tile_is_the_ordinary_loop(unet: Any, name: str, method: Method) -> None:
    draws = name == "euler ancestral"
    start = noise(2, 4, 16, 12)
    expected = ordinary(unet, start, ready(name), seeded(1) if draws else None)
    plan = TilePlan((16, 12), 16, method, generator=seeded())
    made = denoise(called(unet), start, ready(name), plan, batch=2, generator=seeded(1) if draws else None)
    assert torch.equal(made, expected)
    assert (made - start).abs().max() > 0.1


@pytest.mark.parametrize("name", [name for name in SCHEDULERS if name != "euler ancestral"])
def test_steering_sees_clean_latents_and_leads_there(unet: Any, name: str) -> None:
    start, plan = noise(1, 4, 16, 12), TilePlan((16, 12), 16, generator=seeded())
    wanted = noise(1, 4, 16, 12, seed=1).clamp(-0.9, 0.9)  # DDIM clips to [-1, 1]
    seen: list[tuple[Tensor, float, float]] = []

    def look(clean: Tensor, level: float, following: float) -> Tensor:
        seen.append((clean, level, following))
        return clean

    scheduler = ready(name)
    latents = start * getattr(scheduler, "init_noise_sigma", 1.0)
    expected = denoise(called(unet), latents, ready(name), plan)
    same = denoise(called(unet), latents, scheduler, plan, steer=look)
    torch.testing.assert_close(same, expected, rtol=1e-4, atol=1e-4)
    levels = [level for _, level, _ in seen]
    assert levels == sorted(levels, reverse=True) and 0 < levels[-1] < levels[0] <= 1
    assert [following for *_, following in seen] == pytest.approx([*levels[1:], 0])
    made = denoise(called(unet), latents, ready(name), plan, steer=lambda clean, level, following: wanted)
    torch.testing.assert_close(made, wanted, rtol=0, atol=1e-3)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("family", [DDIMScheduler, EulerDiscreteScheduler])
def test_clean_latents_are_those_of_diffusers(family: Any, kind: Any) -> None:
    options: dict[str, Any] = {"clip_sample": False} if family is DDIMScheduler else {}
    scheduler = timed(lambda: family(prediction_type=kind, **options), 5)
    x, prediction, timestep = noise(1, 4, 6, 6), noise(1, 4, 6, 6, seed=1), scheduler.timesteps[0]
    found = mix_at(scheduler, timestep)
    seen = scheduler.scale_model_input(x, timestep)
    expected = scheduler.step(prediction, timestep, x).pred_original_sample
    torch.testing.assert_close(found.clean(seen, prediction), expected, rtol=1e-3, atol=1e-3)
    again = found.prediction(seen, found.clean(seen, prediction))
    torch.testing.assert_close(again, prediction, rtol=1e-3, atol=1e-3)


def test_schedulers_that_cannot_be_steered_are_errors() -> None:
    scheduler = timed(HeunDiscreteScheduler, 3)
    with pytest.raises(ZelligeError, match=r"scheduler of single steps .* but got HeunDiscreteScheduler and epsilon"):
        mix_at(scheduler, scheduler.timesteps[0])
    with pytest.raises(ZelligeError, match="one of the scheduler's time steps, but got 5000"):
        mix_at(ready("euler"), torch.tensor(5000.0))


@pytest.mark.parametrize("name", ["ddim", "euler", "dpm++ 2m flow"])
def test_one_tile_on_a_torus_is_the_ordinary_loop(name: str) -> None:
    # the tile is rolled by any offset; a network of stride 1 on a torus turns that into rounding alone
    mean = torch.nn.Conv2d(4, 4, 3, padding=1).requires_grad_(False)
    start = noise(1, 4, 16, 12)
    plan = TilePlan((16, 12), 16, seamless="xy", generator=seeded())
    with Seamless(mean, "xy"):
        made = denoise(lambda tiles, timestep, places: mean(tiles).tanh(), start, ready(name), plan)
        expected = ordinary(lambda x, timestep, return_dict: (mean(x).tanh(),), start, ready(name))
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "seamless"), [pair for pair in product(METHODS, AXES) if pair[0] != "published" or pair[1] == "none"]
)
def test_cellwise_networks_do_not_see_the_tiles(method: Method, seamless: SeamlessAxes) -> None:
    x = noise(2, 4, 50, 37)
    plan = TilePlan((50, 37), 16, method, seamless, generator=seeded())
    for step in range(5):
        layout = plan.layout(step)
        made = predict(lambda tiles, t, places: tiles.sin() * t, x, 3.0, layout, batch=5, previous=x.sin() * 3)
        torch.testing.assert_close(made, x.sin() * 3, rtol=0, atol=1e-5)


def test_local_networks_see_the_other_side_of_a_torus(unet: Any) -> None:
    """A 3x3 circular mean: inside a tile's part it is the canvas' own, except at tile borders that have no overlap."""
    x = noise(1, 1, 48, 48)
    mean = torch.nn.Conv2d(1, 1, 3, padding=1, bias=False).requires_grad_(False)
    mean.weight.fill_(1 / 9)
    with Seamless(mean, "xy"):
        whole = mean(x)
    plan = TilePlan((48, 48), 16, seamless="xy", generator=seeded())
    for step in range(10):
        layout = plan.layout(step)
        made = predict(lambda tiles, t, places: mean(tiles), x, 0, layout)
        wrong = ((made - whole).abs() > 1e-5)[0, 0]
        edge = torch.zeros(48, 48, dtype=torch.bool)
        for strip in layout.rows:
            edge[strip.cells[[0, -1]]] = True
        for strip in layout.columns:
            edge[:, strip.cells[[0, -1]]] = True
        assert wrong[edge].float().mean() > 0.9 and not wrong[~edge].any()


@pytest.mark.parametrize("method", METHODS)
def test_places_say_what_a_tile_shows(method: Method) -> None:
    x = torch.stack([torch.arange(50 * 40).reshape(1, 50, 40), -torch.arange(50 * 40).reshape(1, 50, 40)]).float()
    plan = TilePlan((50, 40), 16, method, "none" if method == "published" else "xy", generator=seeded())
    seen: list[Place] = []

    def look(tiles: Tensor, timestep: Any, places: Sequence[Place]) -> Tensor:
        for tile, place in zip(tiles, places, strict=True):
            expected = x[place.sample].roll((-place.y, -place.x), (-2, -1))[:, : tile.shape[1], : tile.shape[2]]
            assert torch.equal(tile, expected)
        seen.extend(places)
        return tiles

    layout = plan.layout(2)
    predict(look, x, 0, layout, batch=7)
    assert len(seen) == 2 * layout.calls and {place.sample for place in seen} == {0, 1}


@pytest.mark.parametrize(
    ("seamless", "border"), [("none", "clamp"), ("none", "reflect"), ("x", "clamp"), ("xy", "clamp")]
)
def test_control_images_are_cut_like_the_canvas(seamless: SeamlessAxes, border: Border) -> None:
    cells = noise(2, 1, 40, 48)
    control = cells.repeat_interleave(8, -1).repeat_interleave(8, -2)
    layout = TilePlan((40, 48), 16, "fstd", seamless, generator=seeded(), border=border).layout(3)

    def look(tiles: Tensor, timestep: Any, places: Sequence[Place]) -> Tensor:
        for tile, place in zip(tiles, places, strict=True):
            assert torch.equal(place.crop(control, 8)[:, ::8, ::8], tile)
            assert place.crop(control, 8).shape == (1, 128, 128)
            assert torch.equal(place.crop(cells[:1]), tile) or place.sample == 1
        return tiles

    assert torch.equal(predict(look, cells, 0, layout), cells)


def test_prompts_per_tile_reach_their_place() -> None:
    """The hook: a prompt chosen by place colours the place, whichever tile shows it."""
    plan = TilePlan((64, 64), 16, generator=seeded())

    def prompted(tiles: Tensor, timestep: Any, places: Sequence[Place]) -> Tensor:
        prompts = [1.0 if place.x < 32 else -1.0 for place in places]
        return torch.ones_like(tiles) * torch.tensor(prompts)[:, None, None, None]

    made = sum(predict(prompted, torch.zeros(1, 1, 64, 64), 0, plan.layout(step)) for step in range(64))
    assert isinstance(made, Tensor)
    assert (made[..., :32] == 64).all() and (made[..., 48:] == -64).all()
    # between them the border moves with the grid, so the prompts blend without any overlap
    assert (made[..., 32:48].mean((0, 1, 2)).diff() <= 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_batching_changes_no_cell(unet: Any, method: Method) -> None:
    x = noise(2, 4, 32, 40)
    layout = TilePlan((32, 40), 16, method, generator=seeded()).layout(1)
    one, many = (predict(called(unet), x, 500, layout, batch=batch, previous=x) for batch in (1, 9))
    torch.testing.assert_close(one, many, rtol=0, atol=1e-5)


def test_runs_go_on_where_they_stopped(unet: Any) -> None:
    start, plan = noise(1, 4, 32, 40), TilePlan((32, 40), 16, generator=seeded())
    done: list[StepDone] = []
    whole = denoise(called(unet), start, ready("ddim"), plan, on_step=done.append)
    assert [state.step for state in done] == [0, 1, 2, 3]
    assert done[-1].calls == sum(plan.layout(step).calls for step in range(4))
    assert torch.equal(done[-1].latents, whole)
    scheduler = ready("ddim")
    rest = denoise(called(unet), done[1].latents, scheduler, plan, timesteps=scheduler.timesteps[2:], first=2)
    assert torch.equal(rest, whole)


def test_stale_cells_come_from_the_step_before() -> None:
    plan = TilePlan((32, 32), 16, "published", generator=seeded())
    answers = iter(range(100))
    value: list[int] = []

    def counting(tiles: Tensor, timestep: Any, places: Sequence[Place]) -> Tensor:
        return torch.full_like(tiles, float(value[-1]))

    previous = None
    for step in range(4):
        value.append(next(answers))
        layout = plan.layout(step)
        made = predict(counting, torch.zeros(1, 1, 32, 32), 0, layout, previous=previous)
        fresh = (made - step).abs() < 1e-5
        assert torch.equal(fresh[0, 0], layout.covered())
        assert ((made[~fresh] <= step - 1 + 1e-5).all()) and (step == 0 or layout.stale_share > 0)
        previous = made


def test_half_precision_blends_in_single() -> None:
    x = noise(1, 4, 40, 40).half()
    layout = TilePlan((40, 40), 32, "multidiffusion", generator=seeded()).layout(0)
    made = predict(lambda tiles, t, places: tiles, x, 0, layout)
    assert made.dtype == torch.float16 and torch.equal(made, x)


def test_predictions_may_have_more_channels() -> None:
    x = noise(1, 4, 40, 40)
    layout = TilePlan((40, 40), 16, generator=seeded()).layout(0)
    made = predict(lambda tiles, t, places: torch.cat([tiles, -tiles], 1), x, 0, layout)
    assert torch.equal(made, torch.cat([x, -x], 1))


def test_calls_that_cannot_be_are_errors(unet: Any) -> None:
    plan = TilePlan((32, 32), 16, generator=seeded())
    with pytest.raises(TileError, match=r"shape \(N, C, 32, 32\), but got \(1, 4, 32, 16\)"):
        denoise(called(unet), noise(1, 4, 32, 16), ready("ddim"), plan)
    with pytest.raises(TileError, match="batch of at least 1 tile"):
        denoise(called(unet), noise(1, 4, 32, 32), ready("ddim"), plan, batch=0)
    with pytest.raises(TileError, match="at least one image"):
        denoise(called(unet), noise(0, 4, 32, 32), ready("ddim"), plan)
    with pytest.raises(TileError, match=r"predictions of shape \(4, C, 16, 16\), but got \(4, 4, 8, 8\)"):
        denoise(lambda tiles, t, places: tiles[..., ::2, ::2], noise(1, 4, 32, 32), ready("ddim"), plan)
    stop = KeyboardInterrupt()

    def cancel(state: StepDone) -> None:
        raise stop

    with pytest.raises(KeyboardInterrupt):
        denoise(called(unet), noise(1, 4, 32, 32), ready("ddim"), plan, on_step=cancel)
