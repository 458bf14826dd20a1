"""Fine detail that decoding fades, at its former strength."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

FINE, COARSE = 0.8, 2.0
"""Deviations in texels of the two Gaussians whose difference is the band that fades: 0.04 to 0.35 cycles a texel."""
AMOUNT = 1.5
"""Gain of that band above 1. From 0.05 to 0.2 cycles a texel the autoencoder gives back 0.97 to 0.4 of the amplitude of
real images (36 of validation), which asks for 1.2; samples of the U-Net are softer still."""


def sharpen(image: Tensor, *, wrap_x: bool, wrap_y: bool, strength: float = 1.0) -> Tensor:
    """`image` (C, H, W) in [0, 1], its fading band amplified by 1 + AMOUNT `strength`; mean colours stay.

    A difference of two Gaussians (Marr & Hildreth 1980) as a linear filter of 13x13 texels: circular along the axes
    that wrap, so what tiles still does, and edges repeated along the others.
    """
    if strength == 0:
        return image
    reach = round(3 * COARSE)
    x = image[:, None]
    fine = coarse = x
    for dim, wrap in ((-1, wrap_x), (-2, wrap_y)):
        fine, coarse = (_blurred(v, s, reach, dim, wrap) for v, s in ((fine, FINE), (coarse, COARSE)))
    return (x + AMOUNT * strength * (fine - coarse))[:, 0].clamp(0, 1)


def _blurred(x: Tensor, deviation: float, reach: int, dim: int, wrap: bool) -> Tensor:
    """Gaussian blur of (N, 1, H, W) along one axis."""
    at = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device)
    weights = torch.softmax(-(at / deviation).square() / 2, 0)
    size = x.shape[dim]
    index = torch.arange(-reach, size + reach, device=x.device)
    x = x.index_select(dim, index % size if wrap else index.clamp(0, size - 1))
    return F.conv2d(x, weights.view(1, 1, 1, -1) if dim == -1 else weights.view(1, 1, -1, 1))
