"""The second opinion: a picture network that looks at the place the profiles suspect, for breaks no column betrays.

A feathered seam, a light that falls off, a change of scale: each column is in order and the picture is not. The image
is rolled so that the most suspicious column and row lie in the middle, so that any network after it is exact on the
torus, and reduced to one size, so that it costs the same at any.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIDE = 256
WIDTH = 128
HEADS = 4


class Judge(nn.Module):
    """(N, 3, H, W) in [0, 1], the suspect column in the middle, to (N,) seam logits.

    The first five stages of EfficientNet-Lite0 (Tan & Le, 2019; ImageNet weights), then residual linear attention.
    """

    def __init__(self) -> None:
        from textile_metric.torchvision_guard import guard_torchvision

        guard_torchvision()
        import timm

        super().__init__()
        # features at 1/8 and 1/16; what would follow is cut off
        self.eyes = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(2, 3))
        self.eyes.blocks = self.eyes.blocks[:5]  # pyright: ignore[reportAttributeAccessIssue, reportIndexIssue] - timm's models are typed as modules
        self.enter = nn.Conv2d(40 + 112, WIDTH, 1)
        self.place = nn.Parameter(torch.zeros(1, WIDTH, SIDE // 8, SIDE // 8))
        self.blocks = nn.ModuleList([_Block(WIDTH) for _ in range(3)])
        self.leave = nn.Sequential(nn.LayerNorm(3 * WIDTH), nn.Linear(3 * WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, 1))
        nn.init.constant_(self.leave[-1].bias, -3.0)  # pyright: ignore[reportArgumentType]  # a doubt is not yet a seam

    def train(self, mode: bool = True) -> Judge:
        """Batch norms stay as ImageNet left them: views of one batch are too alike to learn from."""
        super().train(mode)
        self.eyes.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        small = F.interpolate(images, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
        fine, coarse = self.eyes(small * 2 - 1)
        x = self.enter(torch.cat([fine, F.interpolate(coarse, scale_factor=2.0, mode="nearest")], 1)) + self.place
        for block in self.blocks:
            x = block(x)
        middle = x.shape[3] // 2
        strip = x[..., middle - 2 : middle + 2]
        seen = torch.cat([strip.mean((2, 3)), strip.amax((2, 3)), x.mean((2, 3))], 1)
        return self.leave(seen)[:, 0]


class _Block(nn.Module):
    """Neighbours, then everything (linear attention: Shen et al., 2021), then a gate."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.near = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mix = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        n, width, h, w = x.shape
        cells = (x + self.near(x)).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm(cells)).view(n, h * w, 3, HEADS, width // HEADS).permute(2, 0, 3, 1, 4)
        context = k.softmax(-2).transpose(-1, -2) @ v
        found = q.softmax(-1) @ context
        cells = cells + self.out(found.transpose(1, 2).reshape(n, h * w, width))
        cells = cells + self.mix(cells)
        return cells.transpose(1, 2).reshape(n, width, h, w)
