"""`tileability`: the probability that a texture repeats without a seam, and `seam_map`: where it would show."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from textile_metric.images import ImageLike, as_images
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
        >>> noise = torch.rand(3, 96, 96, generator=torch.Generator().manual_seed(0))
        >>> clouds = sum(noise.roll((i, j), (1, 2)) for i in range(8) for j in range(8)) / 64 * 3 - 1
        >>> bool(tileability(clouds) > 0.5), bool(tileability(clouds[..., :80]) > 0.5)
        (True, False)
    """
    check_choices(axes, reduction)
    return reduced(axis_scores(img)[:, ["xy".index(axis) for axis in axes]].prod(1), reduction)


def axis_scores(img: ImageLike) -> Tensor:
    """(N, 2): `tileability` of x and of y, for the work of one. Arguments and errors are those of `tileability`."""
    images = as_images(img)
    with exact(images.device):
        # one by one: a sum's order must not depend on what else is in the batch
        return torch.cat([_pair(image[None]) for image in images])


def seam_map(img: ImageLike, axes: Axes = "xy") -> Tensor:
    """(N, 1, H, W) in [0, 1]: where repeats of `img` would show a seam.

    The score's own gradient says which columns and rows it was decided by; they are as bright as a seam is probable,
    weighted along them by the local step: where the two sides happen to agree, it is dark. Arguments and errors are
    those of `tileability`.
    """
    check_choices(axes)
    maps = []
    for image in as_images(img).detach().split(1):
        with torch.enable_grad(), exact(image.device):
            watched = image.clone().requires_grad_(True)
            logits = network(image.device)(watched)
            found = []
            for axis, lines in (("x", logits.columns), ("y", logits.rows)):
                if axis in axes:
                    (gradient,) = torch.autograd.grad(lines.logsumexp(1).sum(), watched, retain_graph=True)
                    found.append(_lines(image, gradient, getattr(logits, axis).detach().sigmoid(), axis))
        maps.append(torch.stack(found).amax(0))
    return torch.cat(maps)


def check_choices(axes: str, reduction: str = "none") -> None:
    """Raise ValueError unless both are known."""
    if axes not in get_args(Axes):
        raise ValueError(f"Expected axes to be x, y or xy, but got {axes!r}.")
    if reduction not in get_args(Reduction):
        raise ValueError(f"Expected reduction to be none, mean or sum, but got {reduction!r}.")


def reduced(values: Tensor, reduction: Reduction) -> Tensor:
    """(N,) as it is, or its mean or sum."""
    if reduction == "none":
        return values
    return values.mean() if reduction == "mean" else values.sum()


def _pair(image: Tensor) -> Tensor:
    """(1, 2) of a (1, 3, H, W) image."""
    logits = network(image.device)(image)
    height, width = image.shape[2:]
    # an axis of one pixel has nothing to go wrong
    scores = [
        logit.sigmoid() if side > 1 else torch.ones_like(logit)
        for logit, side in ((logits.x, width), (logits.y, height))
    ]
    return torch.stack(scores, 1)


def _lines(image: Tensor, gradient: Tensor, score: Tensor, axis: str) -> Tensor:
    """(1, 1, H, W): the probability of a seam across `axis`, on the lines and the texels it comes from.

    `gradient` is that of the lines' logits to the image.
    """
    if axis == "y":
        return _lines(image.transpose(2, 3), gradient.transpose(2, 3), score, "x").transpose(2, 3)
    if image.shape[3] == 1:
        return torch.zeros_like(image[:, :1])
    weight = gradient.abs().sum((1, 2))[0]
    middle = weight.median()
    line = ((weight - middle) / (weight.max() - middle).clamp_min(1e-12)).clamp(0, 1).square()
    step = opponent(image).diff(dim=3, prepend=opponent(image)[..., -1:]).abs().sum(1, keepdim=True)
    local = torch.maximum(step, step.roll(-1, 3)) / (step.mean(2, keepdim=True) + 1e-3)
    return (1 - score) * line * (0.35 + 0.65 * local.clamp(max=1))


def exact(device: torch.device) -> AbstractContextManager[None]:
    """Full single precision on a GPU, whose convolutions otherwise round to TF32 and move scores by 1e-3."""
    if device.type != "cuda":
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


def tile_loss(images: Tensor, axes: Axes) -> Tensor:
    """(N,) -log p of (N, 3, H, W) floats, summed over the axes; differentiable to the images."""
    with exact(images.device):
        logits = network(images.device)(images)
    return torch.stack([-F.logsigmoid(getattr(logits, axis)) for axis in axes]).sum(0)
