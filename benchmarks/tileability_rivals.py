"""What else scores tileability, behind one signature: (H, W, 3) uint8 to a score per axis, higher tiles better.

None of them looks inside the image for a seam; all compare the two sides of the border. Sources: the mean ratio is this
project's `seam_ratio`; the 98th-percentile ratio is the gate of the open garden planner; TS is the tiling score of
Tiled Diffusion (Madar and Fried, CVPR 2025, arXiv 2412.15185), whose text gives it both as the mean and as the maximum
of three measurements; the multi-scale difference in Lab follows what texture tools describe.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Score = Callable[[Bytes], tuple[float, float]]


def _per_axis(measure: Callable[[NDArray[np.float32]], float]) -> Score:
    """`measure` sees the wrap across columns; the other axis is the transposed image. Higher is worse there."""

    def score(image: Bytes) -> tuple[float, float]:
        values = image.astype(np.float32)
        return -measure(values), -measure(values.transpose(1, 0, 2))

    return score


def mean_ratio(image: Bytes) -> tuple[float, float]:
    from textile_metric import seam_ratio

    x, y = seam_ratio(np.ascontiguousarray(image.transpose(2, 0, 1)))[0]
    return -float(x), -float(y)


def _p98(image: NDArray[np.float32]) -> float:
    luma = image @ np.array([0.2126, 0.7152, 0.0722], np.float32)
    steps = np.abs(np.diff(luma, axis=1)).mean(0)
    return float(np.abs(luma[:, 0] - luma[:, -1]).mean() / max(float(np.percentile(steps, 98)), 1e-3))


def _tiling_scores(image: NDArray[np.float32]) -> tuple[float, float, float]:
    """|left - right| at the wrap and a pixel to either side of it, on [0, 1]."""
    image = image / np.float32(255)
    return (
        float(np.abs(image[:, 0] - image[:, -1]).mean()),
        float(np.abs(image[:, 1] - image[:, 0]).mean()),
        float(np.abs(image[:, -1] - image[:, -2]).mean()),
    )


def _lab(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """CIELAB (D65) of sRGB 0..255."""
    linear = np.where(image <= 10.31475, image / (255 * 12.92), ((image / 255 + 0.055) / 1.055) ** 2.4)
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ matrix.T / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    out = np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)
    return out.astype(np.float32)


def _lab_difference(image: NDArray[np.float32]) -> float:
    """Mean over three octaves of the Lab difference across the wrap."""
    level, found = _lab(image), []
    for _ in range(3):
        found.append(float(np.linalg.norm(level[:, 0] - level[:, -1], axis=-1).mean()))
        height, width = (level.shape[0] // 2) * 2, (level.shape[1] // 2) * 2
        if min(height, width) < 4:
            break
        level = level[:height, :width].reshape(height // 2, 2, width // 2, 2, 3).mean((1, 3))
    return sum(found) / len(found)


RIVALS: dict[str, Score] = {
    "mean seam ratio": mean_ratio,
    "98th-percentile ratio": _per_axis(_p98),
    "TS, mean": _per_axis(lambda image: sum(_tiling_scores(image)) / 3),
    "TS, maximum": _per_axis(lambda image: max(_tiling_scores(image))),
    "Lab, three scales": _per_axis(_lab_difference),
}
