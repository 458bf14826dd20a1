"""`tileability`: the probability that a texture repeats without a seam, and `seam_map`: where it would show."""

from __future__ import annotations

from collections.abc import Iterator
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
    images = as_images(img)
    with exact(images.device):
        # one by one: a sum's order must not depend on what else is in the batch
        scores = torch.cat([_score(image[None], axes) for image in images])
    return reduced(scores, reduction)


def seam_map(img: ImageLike, axes: Axes = "xy") -> Tensor:
    """(N, 1, H, W) in [0, 1]: where repeats of `img` would show a seam.

    The score's own gradient says which columns and rows it was decided by; they are as bright as a seam is probable,
    weighted along them by the local step: where the two sides happen to agree, it is dark. Arguments and errors are
    those of `tileability`.
    """
    check_choices(axes)
    maps = []
    for image in as_images(img).detach().split(1):
        with torch.no_grad(), exact(image.device):
            logits = network(image.device)(image)
        found = {axis: _lines(turned, getattr(logits, axis).sigmoid()) for axis, turned in _turned(image, axes)}
        if "y" in found:
            found["y"] = found["y"].transpose(2, 3)
        maps.append(torch.stack(list(found.values())).amax(0))
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


def _turned(images: Tensor, axes: Axes) -> Iterator[tuple[str, Tensor]]:
    """Each axis asked for, with the images turned so that it runs across columns."""
    for axis in axes:
        yield axis, images if axis == "x" else images.transpose(2, 3)


def _score(image: Tensor, axes: Axes) -> Tensor:
    """(1,) of a (1, 3, H, W) image."""
    score = image.new_ones(1)
    logits = network(image.device)(image)
    for axis, turned in _turned(image, axes):
        if turned.shape[3] > 1:  # an axis of one pixel has nothing to go wrong
            score = score * (logits.x if axis == "x" else logits.y).sigmoid()
    return score


def _lines(image: Tensor, score: Tensor) -> Tensor:
    """(1, 1, H, W): the probability of a seam across columns, on the columns and the texels it comes from."""
    if image.shape[3] == 1:
        return torch.zeros_like(image[:, :1])
    with torch.enable_grad(), exact(image.device):
        watched = image.clone().requires_grad_(True)
        columns = network(image.device).seams(watched)
        (gradient,) = torch.autograd.grad(columns.logsumexp(1).sum(), watched)
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
