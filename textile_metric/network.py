"""The network that scores: profiles say how much each column of a torus looks like a seam, a judge looks there."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textile_metric.judge import Judge
from textile_metric.profile import FIGURES, profiles

WIDTH = 64
HEADS = 4


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


class _Block(nn.Module):
    """Five taps around a circle."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.norm = _Norm(width)
        self.around = nn.Conv1d(width, width, 5, dilation=dilation)
        self.out = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(F.gelu(self.around(_circled(self.norm(x), 2, 2 * self.around.dilation[0]))))


class _Attention(nn.Module):
    """Residual linear attention over the whole circle (Shen et al., 2021): does this line occur elsewhere?"""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = _Norm(width)
        self.qkv = nn.Conv1d(width, 3 * width, 1)
        self.out = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, width, length = x.shape
        q, k, v = self.qkv(self.norm(x)).view(n, 3, HEADS, width // HEADS, length).unbind(1)
        context = v @ k.softmax(-1).transpose(-1, -2)
        found = context @ (q.softmax(-2) * (width // HEADS) ** -0.5)
        return x + self.out(found.reshape(n, width, length))


def _circled(x: Tensor, dim: int, margin: int) -> Tensor:
    """`x` with `margin` more entries of `dim` on each side, from around the circle, which may be smaller than that."""
    length = x.shape[dim]
    if margin > length:
        return x.index_select(dim, torch.arange(-margin, length + margin, device=x.device) % length)
    return torch.cat([x.narrow(dim, length - margin, margin), x, x.narrow(dim, 0, margin)], dim)


class TileNet(nn.Module):
    """(N, 3, H, W) in [0, 1] to `Logits`. On the torus: a roll of the image rolls columns and rows, x and y stay."""

    calibration: Tensor
    """Offset, and the weights of the two opinions, that make probabilities of them: fitted on held-out views."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv1d(2 * FIGURES, WIDTH, 1)
        self.context = nn.Linear(2 * FIGURES, WIDTH)
        self.blocks = nn.ModuleList(
            [
                _Block(WIDTH, 1), _Block(WIDTH, 2), _Attention(WIDTH), _Block(WIDTH, 4), _Block(WIDTH, 8),
                _Attention(WIDTH), _Block(WIDTH, 16), _Block(WIDTH, 1),
            ]
        )  # fmt: skip
        self.leave = nn.Sequential(_Norm(WIDTH), nn.Conv1d(WIDTH, 1, 1))
        nn.init.constant_(self.leave[1].bias, -5.0)  # pyright: ignore[reportArgumentType]  # most columns are no seam
        self.judge = Judge()
        self.register_buffer("calibration", torch.tensor([0.0, 1.0, 0.5]))

    def forward(self, images: Tensor, suspects: Tensor | None = None) -> Logits:
        """`suspects` (N, 2): the column and row for the judge to look at; -1, and the default, is the worst one."""
        columns, rows = self.seams(images)
        worst = torch.stack([columns.argmax(1), rows.argmax(1)], 1)
        suspects = worst if suspects is None else torch.where(suspects < 0, worst, suspects)
        judged = self.opinions(images, suspects)
        return Logits(self.verdict(columns, judged[:, 0]), self.verdict(rows, judged[:, 1]), columns, rows, judged)

    def opinions(self, images: Tensor, suspects: Tensor) -> Tensor:
        """(N, 2): the judge's seam logits of x and y, from a look at the columns and rows of `suspects` (N, 2)."""
        centred = _centred(_centred(images, suspects[:, 0]).transpose(2, 3), suspects[:, 1]).transpose(2, 3)
        return torch.stack([self.judge(centred), self.judge(centred.transpose(2, 3))], 1)

    def verdict(self, columns: Tensor, judged: Tensor) -> Tensor:
        """What the columns say together, a seam anywhere being a seam, and what the judge says: evidence adds up."""
        offset, profiles, judge = self.calibration
        return offset - profiles * columns.logsumexp(1) - judge * judged

    def seams(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Seam logits (N, W) of the columns and (N, H) of the rows."""
        columns, rows = profiles(images)
        return self.read(columns), self.read(rows)

    def read(self, found: Tensor) -> Tensor:
        """(N, FIGURES, W) profiles to (N, W) seam logits."""
        # detached: its gradient would fall on the one column that happens to be in the middle
        middle = found.median(2, keepdim=True).values.detach()
        apart = found - middle
        # a grey image has no colour steps at all, where a bare square root has no gradient
        spread = (apart.square().mean(2, keepdim=True) + 1e-4).sqrt()
        x = self.enter(torch.cat([apart, apart / spread], 1))
        x = x + self.context(torch.cat([middle, spread], 1)[..., 0])[..., None]
        for block in self.blocks:
            x = block(x)
        return self.leave(x)[:, 0]


def _centred(images: Tensor, columns: Tensor) -> Tensor:
    """(N, 3, H, W), each rolled so that its column of `columns` (N,) is the one right of the middle."""
    width = images.shape[3]
    index = (torch.arange(width, device=images.device)[None] + columns[:, None] - width // 2) % width
    return images.gather(3, index[:, None, None, :].expand_as(images))
