"""Gradient ascent on the score: how many non-tiles pass within 8/255, while their seam stays.

The gradient is that of the loss, -log p of both axes. What is attacked are crops, crops of one axis, rotations and
shears of the checked tiles at 128 to 256 pixels. A seam stays where `seam_ratio` is 1.5 or more on a broken axis.

Run as a script with another version of `textile_metric` on the path, it attacks that one:

    PYTHONPATH=FOLDER python benchmarks/tileability_attack.py IN.npz OUT.npz STEPS
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

    from benchmarks.table import Figure
    from benchmarks.tileability_items import Item

Bytes = NDArray[np.uint8]
REACH = 8
"""Of 255: how far a value may move."""
KINDS = ("random_crop", "one_axis", "rotation", "shear")
"""Whose seam is on the border, where `seam_ratio` sees it."""
PASS = 0.5
SEAM = 1.5
"""Ratio from which on there is a seam."""
SIZES = (128, 192, 256)
"""Pixels a side: a hundred steps at more take minutes."""
STRIDE = 7


def targets(sources: Sequence[tuple[str, Path]], count: int, seed: int = 0) -> list[Item]:
    """`count` non-tiles or all there are, the kinds in turn, whose border shows on an axis that doesn't tile."""
    from benchmarks.tileability_items import items

    found: list[Item] = []
    # a stride through the list, which is sorted by package
    order = [source for start in range(STRIDE) for source in sources[start::STRIDE]]
    for number, source in enumerate(order):
        made = items([source], seed + number, SIZES, kinds=(KINDS[number % len(KINDS)],))
        found += [item for item in made if seam_stays(item.image, item.tiles)]
        if len(found) >= count:
            break
    return found[:count]


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
    from tqdm import tqdm

    from textile_metric import TileabilityLoss

    loss = TileabilityLoss()
    return [ascend(image, loss, steps) for image in tqdm(images, unit="attack")]


def attack_official(images: Sequence[Bytes], steps: int, weights: Path) -> list[Bytes]:
    """The same against the published network."""
    from torch.nn import functional as F

    from textile_metric import load_official

    model = load_official(weights)
    return [ascend(image, lambda x: -F.logsigmoid(model.logits(x)).sum(), steps) for image in images]


def attack_other(images: Sequence[Bytes], steps: int, folder: Path) -> list[Bytes]:
    """The same against the version of `textile_metric` in `folder`, in a process of its own.

    Raises ValueError where there is none.
    """
    if not (folder / "textile_metric" / "loss.py").is_file():
        raise ValueError(f"Expected a checkout with textile_metric in {folder}, but there is none.")
    with tempfile.TemporaryDirectory() as scratch:
        source, target = Path(scratch, "in.npz"), Path(scratch, "out.npz")
        np.savez(source, *images)
        command = [sys.executable, "-P", str(Path(__file__).resolve()), str(source), str(target), str(steps)]
        subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(folder.resolve())}, cwd=scratch)
        return _read(target)


def figures(
    found: Sequence[Item], attacked: Mapping[str, Sequence[Bytes]], score: Callable[[Bytes], tuple[float, float]]
) -> list[Figure]:
    """Shares of the targets that pass 0.5 while their seam stays: as they are, and after each attack."""

    def shares(images: Sequence[Bytes]) -> tuple[float, float]:
        passed = [x * y > PASS for x, y in map(score, images)]
        stays = [seam_stays(image, item.tiles) for image, item in zip(images, found, strict=True)]
        return float(np.mean([p and s for p, s in zip(passed, stays, strict=True)])), float(np.mean(passed))

    from benchmarks.table import Figure

    said = [Figure(name="attack: non-tiles", value=len(found))]
    said.append(Figure(name="attack: pass before it", value=shares([item.image for item in found])[0]))
    for name, images in attacked.items():
        both, passed = shares(images)
        said.append(Figure(name=f"attack on {name}: pass and keep the seam", value=both, bar=0.1))
        said.append(Figure(name=f"attack on {name}: pass", value=passed))
    return said


def _read(path: Path) -> list[Bytes]:
    with np.load(path) as stored:
        return [stored[f"arr_{i}"] for i in range(len(stored.files))]


if __name__ == "__main__":
    np.savez(sys.argv[2], *attack(_read(Path(sys.argv[1])), int(sys.argv[3])))
