from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from materials.conditioning import CONDITION_DIM, SCALE_OCTAVES, TEXT_DIM, condition_vector


def vector(scale: float = 0.3, wrap_x: float = 1, wrap_y: float = 0, domain: float = 0) -> torch.Tensor:
    pooled = F.normalize(torch.randn(1, TEXT_DIM, generator=torch.Generator().manual_seed(0)), dim=-1)
    return condition_vector(pooled, *(torch.tensor([v]) for v in (scale, wrap_x, wrap_y, domain)))


def test_layout() -> None:
    made = vector()[0]
    assert made.shape == (CONDITION_DIM,)
    torch.testing.assert_close(made[:TEXT_DIM].square().mean(), torch.tensor(1.0))
    waves = made[TEXT_DIM + 2 : -2].reshape(SCALE_OCTAVES, 2)
    for octave, (sine, cosine) in enumerate(waves.tolist()):
        angle = 0.3 * math.pi / 2 * 2**octave
        assert math.isclose(sine, math.sin(angle), abs_tol=1e-6)
        assert math.isclose(cosine, math.cos(angle), abs_tol=1e-6)
    assert made[-2:].tolist() == [1, 0]


def test_domain_is_two_flags() -> None:
    flags = [vector(domain=d)[0, TEXT_DIM : TEXT_DIM + 2].tolist() for d in (1, -1, 0)]
    assert flags == [[1, 0], [0, 1], [0, 0]]


def test_half_precision_is_kept() -> None:
    pooled = torch.zeros(2, TEXT_DIM, dtype=torch.float16)
    assert condition_vector(pooled, *(torch.zeros(2),) * 4).dtype == torch.float16
