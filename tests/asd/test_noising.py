"""Training targets against diffusers' own schedulers, and against what sampling makes of a prediction."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
)

from asd.clean import FLOW, Mix
from asd.errors import CheckpointError
from asd.noising import Noising

BETAS: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SCHEDULERS = [
    PNDMScheduler(**BETAS, skip_prk_steps=True),
    DDIMScheduler(**BETAS, prediction_type="v_prediction"),
    DDIMScheduler(**BETAS, prediction_type="sample", rescale_betas_zero_snr=True),
    EulerDiscreteScheduler(**BETAS),  # pyright: ignore[reportArgumentType] - an enumeration of them
]
FLOWS = [
    FlowMatchEulerDiscreteScheduler(shift=3.0),
    DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
]


def drawn() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(5, 4, 3, 3, generator=generator) for _ in range(2))
    return clean, noise


@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=lambda s: f"{type(s).__name__}-{s.config.prediction_type}")
def test_noise_and_velocity_are_diffusers(scheduler: Any) -> None:
    clean, noise = drawn()
    level = torch.tensor([0.0, 0.2, 0.5, 0.77, 0.9999])
    made = Noising(scheduler).apply(clean, noise, level)
    assert made.timestep.tolist() == [0, 200, 500, 770, 999]
    keys = ("prediction_type", "rescale_betas_zero_snr")
    own = DDPMScheduler(**BETAS, **{key: scheduler.config[key] for key in keys if key in scheduler.config})
    steps: Any = made.timestep
    assert torch.allclose(made.sample, own.add_noise(clean, noise, steps), atol=1e-6)
    kind = scheduler.config.prediction_type
    wanted = {"epsilon": noise, "sample": clean, "v_prediction": own.get_velocity(clean, noise, steps)}
    assert torch.allclose(made.target, wanted[kind], atol=1e-6)


@pytest.mark.parametrize("scheduler", FLOWS, ids=lambda s: type(s).__name__)
def test_flow_matching(scheduler: Any) -> None:
    clean, noise = drawn()
    noising = Noising(scheduler)
    level = noising.draw(5, torch.Generator().manual_seed(1))
    assert bool(((level > 0) & (level < 1)).all())
    made = noising.apply(clean, noise, level)
    assert torch.allclose(made.timestep, level * 1000)
    for i, share in enumerate(level.tolist()):
        mix = Mix(1 - share, share, FLOW)  # what sampling takes a prediction for
        assert torch.allclose(mix.clean(made.sample[i], made.target[i]), clean[i], atol=1e-5)


def test_levels_are_spread_as_the_schedule_is() -> None:
    level = Noising(SCHEDULERS[0]).draw(20_000, torch.Generator().manual_seed(0))
    assert abs(float(level.mean()) - 0.5) < 0.01 and abs(float(level.std()) - 12**-0.5) < 0.01
    level = Noising(FLOWS[0]).draw(20_000, torch.Generator().manual_seed(0))
    assert abs(float(torch.logit(level).mean())) < 0.03 and abs(float(torch.logit(level).std()) - 1) < 0.03


def test_other_schedulers_are_refused() -> None:
    with pytest.raises(CheckpointError, match="EDMEulerScheduler"):
        Noising(EDMEulerScheduler())
