"""`TileabilityLoss`: what to minimise so that an image tiles."""

from __future__ import annotations

from torch import Tensor, nn

from textile_metric.images import as_images
from textile_metric.score import Axes, Reduction, check_choices, reduced, tile_loss


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
        check_choices(axes, reduction)
        self.axes: Axes = axes
        self.reduction: Reduction = reduction

    def forward(self, images: Tensor) -> Tensor:
        """(3, H, W) or (N, 3, H, W) floats in [0, 1] to a scalar, or (N,) for reduction "none"."""
        return reduced(tile_loss(as_images(images), self.axes), self.reduction)
