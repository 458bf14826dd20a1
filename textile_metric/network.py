"""The network that scores: profiles say how much each column of a torus looks like a seam, a judge looks there."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textile_metric.judge import Judge
from textile_metric.profile import FIGURES, opponent, profiles

WIDTH = 48
HEADS = 4
OCTAVES = 3
"""Resolutions the profile is read at: native, and each next at half of it, while MIN_CELLS are left."""
MIN_CELLS = 64
PATTERNS = 24
"""Learned figures per column, at native resolution, beside the fixed ones."""


class Logits(NamedTuple):
    """x and y (N,): higher tiles better, 0 is even odds. columns (N, W) and rows (N, H): each one's seam logit.

    judged (N, 2): the judge's seam logits of x and y.
    """

    x: Tensor
    y: Tensor
    columns: Tensor
    rows: Tensor
    judged: Tensor


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


class _Patterns(nn.Module):
    """(N, 3, H, W) to (N, 2 PATTERNS, W): mean and spread along each column of learned patterns, seven pixels wide."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, PATTERNS, 3)
        self.apart = nn.Conv2d(PATTERNS, PATTERNS, 3, dilation=2, groups=PATTERNS)
        self.mix = nn.Conv2d(PATTERNS, PATTERNS, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = F.gelu(self.first(_around(opponent(images) * 4, 1)))
        x = F.gelu(self.mix(self.apart(_around(x, 2))))
        return torch.cat([x.mean(2), (x.square().mean(2) + 1e-6).log()], 1)


def _around(x: Tensor, margin: int) -> Tensor:
    """`x` with `margin` more rows and columns on each side, from around the torus, which may be smaller than that."""
    rows = torch.arange(-margin, x.shape[2] + margin, device=x.device) % x.shape[2]
    columns = torch.arange(-margin, x.shape[3] + margin, device=x.device) % x.shape[3]
    return x[:, :, rows][..., columns]


class TileNet(nn.Module):
    """(N, 3, H, W) in [0, 1] to `Logits`. On the torus: a roll of the image rolls columns and rows, x and y stay."""

    calibration: Tensor
    """Offset, and the weights of the two opinions, that make probabilities of them: fitted on held-out views."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv1d(FIGURES, WIDTH, 1)
        self.patterns = _Patterns()
        self.learned = nn.Conv1d(2 * PATTERNS, WIDTH, 1)
        nn.init.zeros_(self.learned.weight)
        self.context = nn.Linear(2 * FIGURES, WIDTH)
        self.blocks = nn.ModuleList(
            [
                _Block(WIDTH, 1), _Block(WIDTH, 2), _Attention(WIDTH), _Block(WIDTH, 4), _Block(WIDTH, 8),
                _Attention(WIDTH), _Block(WIDTH, 1),
            ]
        )  # fmt: skip
        self.leave = nn.Sequential(_Norm(WIDTH), nn.Conv1d(WIDTH, 1, 1))
        nn.init.constant_(self.leave[1].bias, -5.0)  # pyright: ignore[reportArgumentType]  # most columns are no seam
        self.judge = Judge()
        self.register_buffer("calibration", torch.tensor([0.0, 1.0, 0.5]))

    def forward(self, images: Tensor, suspects: Tensor | None = None) -> Logits:
        """`suspects` (N, 2): the column and row for the judge to look at; -1, and the default, is the worst one."""
        columns, rows = self.seams(images), self.seams(images.transpose(2, 3))
        worst = torch.stack([columns.argmax(1), rows.argmax(1)], 1)
        suspects = worst if suspects is None else torch.where(suspects < 0, worst, suspects)
        centred = _centred(_centred(images, suspects[:, 0]).transpose(2, 3), suspects[:, 1]).transpose(2, 3)
        judged = torch.stack([self.judge(centred), self.judge(centred.transpose(2, 3))], 1)
        return Logits(self.verdict(columns, judged[:, 0]), self.verdict(rows, judged[:, 1]), columns, rows, judged)

    def verdict(self, columns: Tensor, judged: Tensor) -> Tensor:
        """What the columns say together, a seam anywhere being a seam, and what the judge says: evidence adds up."""
        offset, profiles, judge = self.calibration
        return offset - profiles * columns.logsumexp(1) - judge * judged

    def seams(self, images: Tensor) -> Tensor:
        """(N, W) seam logits of the columns, the worst over octaves."""
        length, height = images.shape[3], images.shape[2]
        octaves = [o for o in range(OCTAVES) if o == 0 or min(length, height) >= MIN_CELLS * 2**o]
        return torch.stack([self.read(profiles(images, o), o, images) for o in octaves]).amax(0)

    def read(self, found: Tensor, octave: int, images: Tensor) -> Tensor:
        """(N, FIGURES, W) profiles to (N, W) seam logits."""
        # detached: its gradient would fall on the one column that happens to be in the middle
        middle = found.median(2, keepdim=True).values.detach()
        apart = found - middle
        # a grey image has no colour steps at all, where a bare square root has no gradient
        spread = (apart.square().mean(2) + 1e-8).sqrt()
        x = self.enter(apart) + self.context(torch.cat([middle[..., 0], spread], 1))[..., None]
        if octave == 0:
            x = x + self.learned(self.patterns(images))
        for block in self.blocks:
            x = block(x, octave)
        return self.leave(x)[:, 0]


def _centred(images: Tensor, columns: Tensor) -> Tensor:
    """(N, 3, H, W), each rolled so that its column of `columns` (N,) is the one right of the middle."""
    width = images.shape[3]
    index = (torch.arange(width, device=images.device)[None] + columns[:, None] - width // 2) % width
    return images.gather(3, index[:, None, None, :].expand_as(images))
