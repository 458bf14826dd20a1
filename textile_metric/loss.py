"""`TileabilityLoss`: what to minimise so that an image tiles."""

from __future__ import annotations

from typing import get_args

from torch import Tensor, nn

from textile_metric.images import as_images
from textile_metric.score import Axes, Reduction, tile_loss


class TileabilityLoss(nn.Module):
    """-log p(tiles) of images: 0 for a perfect tile, lower is better, gradient to the images only.

    Args:
        axes: "x", "y" or "xy" (the sum of both).
        reduction: "mean", "sum" or "none".

    Example:
        >>> import torch
        >>> image = torch.rand(1, 3, 32, 32, requires_grad=True)
        >>> TileabilityLoss()(image).backward()
        >>> image.grad.shape
        torch.Size([1, 3, 32, 32])
    """

    def __init__(self, axes: Axes = "xy", reduction: Reduction = "mean") -> None:
        super().__init__()
        if axes not in get_args(Axes):
            raise ValueError(f"Expected axes to be x, y or xy, but got {axes!r}.")
        if reduction not in get_args(Reduction):
            raise ValueError(f"Expected reduction to be none, mean or sum, but got {reduction!r}.")
        self.axes: Axes = axes
        self.reduction: Reduction = reduction

    def forward(self, images: Tensor) -> Tensor:
        """(3, H, W) or (N, 3, H, W) floats in [0, 1] to a scalar, or (N,) for reduction "none"."""
        losses = tile_loss(as_images(images), self.axes)
        if self.reduction == "none":
            return losses
        return losses.mean() if self.reduction == "mean" else losses.sum()
