"""`Tileability`: the score as a torchmetrics `Metric`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from textile_metric.score import Axes, Reduction, check_choices, tileability
from textile_metric.torchvision_guard import guard_torchvision
from textile_metric.weights import VERSION

guard_torchvision()  # torchmetrics imports torchvision where it finds one
from torchmetrics import Metric  # noqa: E402  # after the guard
from torchmetrics.utilities.data import dim_zero_cat  # noqa: E402


class Tileability(Metric):
    """Mean tileability of all images seen, or their sum, or every score.

    Args:
        axes: "x", "y" or "xy".
        reduction: "mean", "sum", or "none" for the scores of all images in the order they came.
        kwargs: torchmetrics' own, such as `dist_sync_on_step`.

    Example:
        >>> import torch
        >>> metric = Tileability()
        >>> metric.update(torch.full((2, 3, 32, 32), 0.5))
        >>> bool(metric.compute() > 0.9)
        True
    """

    is_differentiable = True
    higher_is_better = True
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0
    weights_version = VERSION

    scores: list[Tensor]
    total: Tensor
    count: Tensor

    def __init__(self, axes: Axes = "xy", reduction: Reduction = "mean", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_choices(axes, reduction)
        self.axes: Axes = axes
        self.reduction: Reduction = reduction
        if reduction == "none":
            self.add_state("scores", [], dist_reduce_fx="cat")
        else:
            self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
            self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, img: Tensor) -> None:
        """Score a batch, (N, 3, H, W) or (3, H, W), floats in [0, 1] or uint8."""
        scores = tileability(img, self.axes)
        if self.reduction == "none":
            self.scores.append(scores)
        else:
            self.total = self.total + scores.sum()
            self.count = self.count + len(scores)

    def compute(self) -> Tensor:
        """A scalar in [0, 1] ("mean"), the sum, or (N,) for "none"."""
        if self.reduction == "none":
            return dim_zero_cat(self.scores)
        return self.total / self.count if self.reduction == "mean" else self.total
