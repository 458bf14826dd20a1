"""`tileability`: the probability that a texture repeats without a seam, and `seam_map`: where it would show."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from textile_metric.images import ImageLike, as_images
from textile_metric.network import Logits
from textile_metric.profile import opponent
from textile_metric.weights import network

Axes = Literal["x", "y", "xy"]
Reduction = Literal["none", "mean", "sum"]


def tileability(img: ImageLike, axes: Axes = "xy", reduction: Reduction = "none") -> Tensor:
    """Calibrated probability that the plane made by repeating `img` shows no seam.

    A roll of the image changes nothing, and neither does the rest of the batch. An axis of a single pixel has no seam:
    every repeat of it is the same.

    Args:
        img: (3, H, W) or (N, 3, H, W), floats in [0, 1] or uint8; a PIL image; the path of an image (see `as_images`).
        axes: "x" (left meets right), "y" (top meets bottom), "xy" (both).
        reduction: "none" for one score per image, "mean" or "sum" over them.

    Returns:
        (N,) float32 in [0, 1] on the image's device, higher tiles better; a scalar for "mean" and "sum".

    Raises:
        ValueError: another shape, dtype or range, values that are not finite, an unreadable file, an unknown choice.

    Example:
        >>> import torch
        >>> stripes = torch.arange(64).div(64).mul(8 * torch.pi).sin().mul(0.4).add(0.5).expand(3, 64, 64)
        >>> bool(tileability(stripes) > 0.9), bool(tileability(stripes[..., :52], axes="x") < 0.1)
        (True, True)
    """
    if axes not in get_args(Axes):
        raise ValueError(f"Expected axes to be x, y or xy, but got {axes!r}.")
    if reduction not in get_args(Reduction):
        raise ValueError(f"Expected reduction to be none, mean or sum, but got {reduction!r}.")
    images = as_images(img)
    with exact(images.device):
        # one by one: a sum's order must not depend on what else is in the batch
        scores = torch.cat([_score(network(images.device)(image[None]), image, axes) for image in images])
    if reduction == "none":
        return scores
    return scores.mean() if reduction == "mean" else scores.sum()


def seam_map(img: ImageLike, axes: Axes = "xy") -> Tensor:
    """(N, 1, H, W) in [0, 1]: where repeats of `img` would show a seam.

    A column or row that the network takes for a seam is as bright as that is probable, weighted along it by the local
    step: where the two sides happen to agree, it is dark. Arguments and errors are those of `tileability`.
    """
    if axes not in get_args(Axes):
        raise ValueError(f"Expected axes to be x, y or xy, but got {axes!r}.")
    images = as_images(img)
    maps = []
    with torch.no_grad(), exact(images.device):
        for image in images:
            logits = network(images.device)(image[None])
            columns = _lines(image[None], logits.columns)
            rows = _lines(image[None].transpose(2, 3), logits.rows).transpose(2, 3)
            chosen = {"x": columns, "y": rows, "xy": torch.maximum(columns, rows)}[axes]
            maps.append(chosen)
    return torch.cat(maps)


def _score(logits: Logits, image: Tensor, axes: Axes) -> Tensor:
    # a probability of one, kept in the graph: an axis of one pixel has nothing to go wrong
    x = torch.ones_like(logits.x) if image.shape[2] == 1 else logits.x.sigmoid()
    y = torch.ones_like(logits.y) if image.shape[1] == 1 else logits.y.sigmoid()
    return {"x": x, "y": y, "xy": x * y}[axes]


def _lines(image: Tensor, logits: Tensor) -> Tensor:
    """(1, 1, H, W): column probabilities spread over their rows by the step to the left, both sides of it lit."""
    step = opponent(image).diff(dim=3, prepend=opponent(image)[..., -1:]).abs().sum(1, keepdim=True)
    local = step / (step.mean(2, keepdim=True) + 1e-3)
    found = logits.sigmoid()[:, None, None, :] * (0.35 + 0.65 * local.clamp(max=1))
    return torch.maximum(found, found.roll(-1, 3))


def exact(device: torch.device) -> AbstractContextManager[None]:
    """Full single precision on a GPU, whose convolutions otherwise round to TF32 and move scores by 1e-3."""
    if device.type != "cuda":
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


def tile_loss(images: Tensor, axes: Axes) -> Tensor:
    """(N,) negative log-odds-free loss -log p of (N, 3, H, W) floats, differentiable to the images."""
    with exact(images.device):
        logits = network(images.device)(images)
    x, y = -F.logsigmoid(logits.x), -F.logsigmoid(logits.y)
    return {"x": x, "y": y, "xy": x + y}[axes]
