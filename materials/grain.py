"""The fine grain that the autoencoder can't keep, drawn again from its statistics."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from materials.sharpen import sharpen

LUMA = (0.299, 0.587, 0.114)
FREQUENCIES = (0.0, 0.025, 0.05, 0.085, 0.125, 0.175, 0.225, 0.275, 0.325, 0.375, 0.425, 0.475, 0.55, 0.71)
"""Cycles a texel."""
POWER = (4.0, 4.0, 3.6, 2.6, 2.8, 2.7, 1.95, 1.37, 0.94, 0.67, 0.49, 0.39, 0.25, 0.19)
"""Power of the lost luma at FREQUENCIES, where white noise has 1; the lowest is cut: it is colour and no grain."""
AMPLITUDE = (0.33, 0.659, 0.1975, 0.0776)
"""Log of the lost luma's deviation: constant, and factors of the logs of fine contrast, coarse contrast and luma."""
STRENGTH = 1.0
"""Share of the fitted amplitude that is added, and of the gain of `materials.sharpen`."""
LARGEST = 0.06
"""Deviation at which the amplitude levels off: the fit is for averages, and more looks like noise on snow or lava."""
SALT = 0x5DEECE66D


def add_grain(basecolor: Tensor, seed: int, *, wrap_x: bool, wrap_y: bool, strength: float = STRENGTH) -> Tensor:
    """`basecolor` (3, H, W) in [0, 1] with luma noise of the spectrum and the local amplitude of what coding loses."""
    return (basecolor + strength * grain_of(basecolor, seed, wrap_x=wrap_x, wrap_y=wrap_y)).clamp(0, 1)


def grain_of(basecolor: Tensor, seed: int, *, wrap_x: bool, wrap_y: bool) -> Tensor:
    """Luma noise (H, W) of the spectrum and the local amplitude of what coding loses of `basecolor` (3, H, W).

    A decoder trained on mean errors answers with the mean of all details that a latent may stand for, which is none.
    Video coders code without the grain and synthesise it again (film grain of AV1: Norkin & Birkbeck 2018); so does
    this. The constants were fitted to x - decode(encode(x)) of 72 training images at 256 px (amplitude: R2 0.72). The
    noise is periodic, hence the result tiles along the axes that wrap; it depends on the seed and the size alone.
    """
    height, width = basecolor.shape[-2:]
    generator = torch.Generator().manual_seed((seed ^ SALT) % 2**63)
    noise = torch.randn(height, width, generator=generator, dtype=torch.float64)
    frequency = torch.hypot(torch.fft.fftfreq(height)[:, None].double(), torch.fft.rfftfreq(width)[None].double())
    shaped = torch.fft.irfft2(torch.fft.rfft2(noise) * _power(frequency).sqrt(), s=(height, width)).float()

    luma = (basecolor * torch.tensor(LUMA)[:, None, None]).sum(0)[None, None]

    def box(x: Tensor, reach: int) -> Tensor:
        for dim, wrap in ((-1, wrap_x), (-2, wrap_y)):
            size = x.shape[dim]
            index = torch.arange(-reach, size + reach)
            x = x.index_select(dim, index % size if wrap else index.clamp(0, size - 1))
        return F.avg_pool2d(F.avg_pool2d(x, (1, 2 * reach + 1), 1), (2 * reach + 1, 1), 1)

    def contrast(reach: int, window: int) -> Tensor:
        return box((luma - box(luma, reach)).square(), window).clamp_min(1e-10).sqrt() + 1e-3

    constant, fine, coarse, bright = AMPLITUDE
    logarithm = constant + fine * contrast(2, 8).log() + coarse * contrast(8, 12).log()
    amplitude = (logarithm + bright * box(luma, 8).clamp_min(0.02).log()).exp()
    amplitude = LARGEST * torch.tanh(amplitude / LARGEST)
    return (amplitude[0] * shaped)[0]


def add_detail(basecolor: Tensor, seed: int, *, wrap_x: bool, wrap_y: bool, strength: float = STRENGTH) -> Tensor:
    """`basecolor` (3, H, W) as decoded, with what fades amplified and what is lost drawn again; 0 changes nothing."""
    if strength == 0:
        return basecolor
    sharp = sharpen(basecolor, wrap_x=wrap_x, wrap_y=wrap_y, strength=strength)
    return (sharp + strength * grain_of(basecolor, seed, wrap_x=wrap_x, wrap_y=wrap_y)).clamp(0, 1)


def _power(frequency: Tensor) -> Tensor:
    """POWER at any frequency, linear between its points."""
    points = torch.tensor(FREQUENCIES, dtype=frequency.dtype)
    values = torch.tensor(POWER, dtype=frequency.dtype)
    right = torch.searchsorted(points, frequency.contiguous()).clamp(1, len(points) - 1)
    share = ((frequency - points[right - 1]) / (points[right] - points[right - 1])).clamp(0, 1)
    return torch.lerp(values[right - 1], values[right], share)
