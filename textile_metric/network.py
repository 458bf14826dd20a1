"""The network that reads profiles: for every column of a torus, how much it looks like a seam."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textile_metric.profile import FIGURES, profiles

WIDTH = 48
HEADS = 4
OCTAVES = 1
"""Resolutions the profile is read at: native, and each next at half of it, while MIN_CELLS are left. The shipped
weights learned at native resolution: with four octaves their AUC on held-out views falls from 0.924 to 0.915."""
MIN_CELLS = 64


class Logits(NamedTuple):
    """x and y (N,): higher tiles better, 0 is even odds. columns (N, W) and rows (N, H): each one's seam logit."""

    x: Tensor
    y: Tensor
    columns: Tensor
    rows: Tensor


class _Norm(nn.LayerNorm):
    """Layer norm over the channels of (N, C, W)."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.transpose(1, 2)).transpose(1, 2)


class _Circular(nn.Conv1d):
    """Five taps around a circle."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__(width, width, 5, dilation=dilation)

    def at(self, x: Tensor, octave: int) -> Tensor:
        apart = self.dilation[0] * 2**octave
        length = x.shape[2]
        around = torch.arange(-2 * apart, length + 2 * apart, device=x.device) % length
        return F.conv1d(x[..., around], self.weight, self.bias, dilation=apart)


class _Block(nn.Module):
    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.norm = _Norm(width)
        self.around = _Circular(width, dilation)
        self.out = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor, octave: int) -> Tensor:
        return x + self.out(F.gelu(self.around.at(self.norm(x), octave)))


class _Attention(nn.Module):
    """Residual linear attention over the whole circle (Shen et al., 2021): does this line occur elsewhere?"""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = _Norm(width)
        self.qkv = nn.Conv1d(width, 3 * width, 1)
        self.out = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor, octave: int) -> Tensor:
        n, width, length = x.shape
        q, k, v = self.qkv(self.norm(x)).view(n, 3, HEADS, width // HEADS, length).unbind(1)
        context = v @ k.softmax(-1).transpose(-1, -2)
        found = context @ (q.softmax(-2) * (width // HEADS) ** -0.5)
        return x + self.out(found.reshape(n, width, length))


class TileNet(nn.Module):
    """(N, 3, H, W) in [0, 1] to `Logits`. On the torus: a roll of the image rolls columns and rows, x and y stay."""

    calibration: Tensor
    """Slope and offset that make probabilities of logits, fitted on held-out views."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv1d(FIGURES, WIDTH, 1)
        self.context = nn.Linear(2 * FIGURES, WIDTH)
        self.blocks = nn.ModuleList(
            [
                _Block(WIDTH, 1), _Block(WIDTH, 2), _Attention(WIDTH), _Block(WIDTH, 4), _Block(WIDTH, 8),
                _Attention(WIDTH), _Block(WIDTH, 1),
            ]
        )  # fmt: skip
        self.leave = nn.Sequential(_Norm(WIDTH), nn.Conv1d(WIDTH, 1, 1))
        nn.init.constant_(self.leave[1].bias, -5.0)  # pyright: ignore[reportArgumentType]  # most columns are no seam
        self.register_buffer("calibration", torch.tensor([1.0, 0.0]))

    def forward(self, images: Tensor) -> Logits:
        x, columns = self.across(images)
        y, rows = self.across(images.transpose(2, 3))
        return Logits(x, y, columns, rows)

    def across(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """x and columns of `Logits`; of the transposed images, y and rows."""
        columns = self.seams(images)
        slope, offset = self.calibration
        return offset - slope * columns.logsumexp(1), columns

    def seams(self, images: Tensor) -> Tensor:
        """(N, W) seam logits of the columns, the worst over octaves."""
        length, height = images.shape[3], images.shape[2]
        octaves = [o for o in range(OCTAVES) if o == 0 or min(length, height) >= MIN_CELLS * 2**o]
        return torch.stack([self.read(profiles(images, o), o) for o in octaves]).amax(0)

    def read(self, found: Tensor, octave: int = 0) -> Tensor:
        """(N, FIGURES, W) profiles to (N, W) seam logits."""
        # detached: its gradient would fall on the one column that happens to be in the middle
        middle = found.median(2, keepdim=True).values.detach()
        apart = found - middle
        # a grey image has no colour steps at all, where a bare square root has no gradient
        spread = (apart.square().mean(2) + 1e-8).sqrt()
        x = self.enter(apart) + self.context(torch.cat([middle[..., 0], spread], 1))[..., None]
        for block in self.blocks:
            x = block(x, octave)
        return self.leave(x)[:, 0]
