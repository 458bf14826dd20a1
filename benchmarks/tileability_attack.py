"""Gradient ascent on the score: how many non-tiles pass within 8/255, while their seam stays.

Run as a script with another version of `textile_metric` on the path, it attacks that one:

    PYTHONPATH=FOLDER python benchmarks/tileability_attack.py IN.npz OUT.npz STEPS
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

    from benchmarks.tileability_items import Item

Bytes = NDArray[np.uint8]
REACH = 8
"""Of 255: how far a value may move."""
KINDS = ("random_crop", "one_axis", "rotation", "shear")
"""Whose seam is on the border, where `seam_ratio` sees it."""
SEAM = 1.5
"""Ratio from which on there is a seam."""
LARGEST = 256
"""Pixels a side: a hundred steps at more take minutes."""


def targets(found: Sequence[Item], count: int) -> list[Item]:
    """The first `count` non-tiles, the kinds in turn, that are small enough and whose border shows on a broken axis."""
    queues = [[item for item in found if item.kind == kind and _usable(item)] for kind in KINDS]
    turns = [queue[i] for i in range(max(map(len, queues), default=0)) for queue in queues if i < len(queue)]
    return turns[:count]


def _usable(item: Item) -> bool:
    return max(item.image.shape[:2]) <= LARGEST and seam_stays(item.image, item.tiles)


def seam_stays(image: Bytes, tiles: tuple[bool, bool]) -> bool:
    """Whether the plain seam ratio still is `SEAM` or more on an axis that doesn't tile."""
    from textile_metric import seam_ratio

    ratios = seam_ratio(np.ascontiguousarray(image.transpose(2, 0, 1)))[0]
    return any(ratio >= SEAM and not good for ratio, good in zip(ratios, tiles, strict=True))


def ascend(image: Bytes, loss: Callable[[Tensor], Tensor], steps: int) -> Bytes:
    """`image` (H, W, 3), moved by at most `REACH` a value so that `loss` falls: projected gradient steps (Madry et al.
    2018), with momentum and normalised gradients (Dong et al. 2018), rounded to whole values at the end.
    """
    import torch

    start = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None].float() / 255
    reach, rate = REACH / 255, 2.5 * REACH / 255 / steps
    x, memory = start.clone(), torch.zeros_like(start)
    best, lowest = start, float("inf")
    for _ in range(steps):
        x.requires_grad_(True)
        value = loss(x)
        (gradient,) = torch.autograd.grad(value, x)
        if float(value.detach()) < lowest:
            best, lowest = x.detach(), float(value.detach())
        memory = memory + gradient / gradient.abs().mean().clamp_min(1e-12)
        x = (x.detach() - rate * memory.sign()).clamp(start - reach, start + reach).clamp(0, 1)
    with torch.no_grad():
        best = x if float(loss(x)) < lowest else best
    return (best[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def attack(images: Sequence[Bytes], steps: int) -> list[Bytes]:
    """Each image after `steps` steps against the network that `textile_metric` is here."""
    from textile_metric import TileabilityLoss

    loss = TileabilityLoss()
    return [ascend(image, loss, steps) for image in images]


def attack_other(images: Sequence[Bytes], steps: int, folder: Path) -> list[Bytes]:
    """The same against the version of `textile_metric` in `folder`, in a process of its own.

    Raises ValueError where there is none.
    """
    if not (folder / "textile_metric" / "loss.py").is_file():
        raise ValueError(f"Expected a checkout with textile_metric in {folder}, but there is none.")
    with tempfile.TemporaryDirectory() as scratch:
        source, target = Path(scratch, "in.npz"), Path(scratch, "out.npz")
        np.savez(source, *images)
        command = [sys.executable, str(Path(__file__).resolve()), str(source), str(target), str(steps)]
        subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(folder.resolve())}, cwd=scratch)
        return _read(target)


def _read(path: Path) -> list[Bytes]:
    with np.load(path) as stored:
        return [stored[f"arr_{i}"] for i in range(len(stored.files))]


if __name__ == "__main__":
    np.savez(sys.argv[2], *attack(_read(Path(sys.argv[1])), int(sys.argv[3])))
