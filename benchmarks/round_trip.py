"""Do 8-bit normals give the height back? Height to normals, rounded to 8 bits, to height by the Poisson solution.

    python -m benchmarks.round_trip [--json FILE]

Smooth periodic random heights of three wavelengths, three aspects and reliefs of 8 to 32 texels; those whose slopes
pass 75 degrees are left out: 8 bits do not hold them. The error is the root mean square over all texels, in texels,
between the heights about their means; the depth's is the largest of four fields, as a share.
"""

from __future__ import annotations

import argparse
import math

from benchmarks.table import Figure, add_json, finish

RELIEFS = (8, 16, 32)
SIZES = ((256, 256), (192, 341), (97, 512))
WAVELENGTHS = (64, 32, 16)
STEEPEST = 75.0


def round_trip(size: tuple[int, int], *, relief: float, wavelength: float, seed: int = 0) -> tuple[float, float]:
    """(RMSE in texels, largest depth error as a share) over four fields of `size` (H, W), `relief` texels high.

    Both are NaN where a slope is steeper than `STEEPEST` degrees.
    """
    import torch

    from materials.maps import height_from_normal, height_to_range, normal_from_height

    rows, columns = size
    noise = torch.randn(4, 1, rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    squared = torch.fft.fftfreq(rows).double()[:, None] ** 2 + torch.fft.fftfreq(columns).double()[None] ** 2
    spectrum = torch.fft.fft2(noise) * torch.exp(-squared * wavelength**2) * (squared < 0.16)
    height = height_to_range(torch.fft.ifft2(spectrum).real)
    metres, depth = (columns * 0.001, rows * 0.001), relief * 0.001
    normal = normal_from_height(height, depth_m=depth, size_m=metres)
    if float(torch.rad2deg(torch.acos(normal[:, 2].min()))) > STEEPEST:
        return float("nan"), float("nan")
    rounded = torch.round((normal * 0.5 + 0.5) * 255) / 255 * 2 - 1
    back, found = height_from_normal(rounded, size_m=metres)
    error = back * found.reshape(-1, 1, 1, 1) - height * depth
    error = error - error.mean(dim=(2, 3), keepdim=True)
    return float(error.square().mean().sqrt() / 0.001), float((found / depth - 1).abs().max())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_json(parser)
    args = parser.parse_args()
    figures = []
    for relief in RELIEFS:
        runs = [round_trip(s, relief=relief, wavelength=w) for s in SIZES for w in WAVELENGTHS]
        runs = [run for run in runs if math.isfinite(run[0])]
        figures += [
            Figure(name=f"height_rmse_texels_relief_{relief}", value=max(run[0] for run in runs), bar=0.01),
            Figure(name=f"depth_error_relief_{relief}", value=max(run[1] for run in runs), bar=0.01),
        ]
    return finish("round_trip", figures, args.json)


if __name__ == "__main__":
    raise SystemExit(main())
