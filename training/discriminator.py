"""Opponents: which of two enlargements of a small picture is the true one, for every 2x2 pixels; and whether features
of frozen networks are those of real pictures."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm


def _convolution(inner: int, outer: int, side: int = 3, stride: int = 1) -> nn.Module:
    return spectral_norm(nn.Conv2d(inner, outer, side, stride, 1, bias=False))


class Discriminator(nn.Module):
    """A U-Net with spectral norms (Schönfeld et al. 2020; Wang et al. 2021, Real-ESRGAN), shown the small picture too.

    `forward` takes (N, 3, H, W) pictures in [0, 1] and their small ones enlarged by a bicubic, H and W multiples of 16,
    and gives logits (N, 1, H / 2, W / 2).
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.head = nn.Conv2d(24, width, 3, padding=1)
        sides = (width, 2 * width, 4 * width, 4 * width)
        self.down = nn.ModuleList(_convolution(a, b, 4, 2) for a, b in pairwise(sides))
        back = sides[::-1]
        self.up = nn.ModuleList(_convolution(a, b) for a, b in pairwise(back))
        self.tail = _convolution(width, width)
        self.last = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x: Tensor, cubic: Tensor) -> Tensor:
        # what was added to the bicubic, four times as loud
        given = torch.cat([cubic * 2 - 1, (x - cubic) * 4], 1)
        y = F.leaky_relu(self.head(F.pixel_unshuffle(given, 2)), 0.2)
        kept = []
        for layer in self.down:
            kept.append(y)
            y = F.leaky_relu(layer(y), 0.2)
        for layer in self.up:
            y = F.interpolate(y, scale_factor=2, mode="nearest")
            y = F.leaky_relu(layer(y), 0.2) + kept.pop()
        return self.last(F.leaky_relu(self.tail(y), 0.2))


class Heads(nn.Module):
    """Real or made, for each cell of a frozen network's features: (N, cells) scores, high for real (Sauer et al. 2021,
    Projected GANs)."""

    def __init__(self, widths: list[int], width: int = 96) -> None:
        super().__init__()

        def head(channels: int) -> nn.Module:
            return nn.Sequential(
                spectral_norm(nn.Conv2d(channels, width, 1)), nn.LeakyReLU(0.2),
                spectral_norm(nn.Conv2d(width, width, 3, padding=1)), nn.LeakyReLU(0.2),
                spectral_norm(nn.Conv2d(width, 1, 1)),
            )  # fmt: skip

        self.heads = nn.ModuleList(head(w) for w in widths)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        # features differ in size by orders: each stage at unit mean square
        scaled = [f * f.detach().square().mean((1, 2, 3), keepdim=True).add(1e-6).rsqrt() for f in features]
        return [head(f).flatten(1) for head, f in zip(self.heads, scaled, strict=True)]


def hinges(fakes: list[Tensor], trues: list[Tensor]) -> Tensor:
    """(n,): what each of n opponents has to lower, given its scores of made and of real pictures (Lim and Ye 2017)."""
    return torch.stack([F.relu(1 + f).mean() + F.relu(1 - t).mean() for f, t in zip(fakes, trues, strict=True)])
