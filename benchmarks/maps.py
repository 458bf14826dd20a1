"""Are the normals inferred from a photo nearer to the true ones than simple filters? Textures with normal maps.

    python -m benchmarks.maps --data ROOT [--count N --json FILE]

Every texture of `training/textures.csv` of the split that has a usable normal map (training.manifest), at a short side
of 512 px at most; ROOT holds the unpacked packages. Mean angle in degrees between the normal map and: a flat surface;
the gradient of the luma, central differences and Sobel's; the maps of `materials.estimate_maps`. The filters' strength
is that which is best on these very textures, which favours them. Means are over textures, and over clusters of near
duplicates. The bar is 20 % below the best filter.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.table import Figure, add_json, finish

if TYPE_CHECKING:
    from torch import Tensor

    from asd.seamless import SeamlessAxes
    from materials.pipeline import MaterialPipeline

SIDE = 512
STRENGTHS = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
LUMA = (0.2126, 0.7152, 0.0722)
BAR = 0.8


@dataclass(frozen=True)
class Example:
    """A texture (1, 3, H, W) in [0, 1], its normals (1, 3, H, W), the axes that wrap, its cluster and package."""

    path: str
    image: Tensor
    normal: Tensor
    axes: SeamlessAxes
    cluster: int


def examples(root: Path, split: str, count: int | None) -> Iterator[Example]:
    """Textures with a usable normal map, `count` of them evenly spread. Raises ValueError where there is none."""
    import torch

    from training import manifest

    rows = manifest.read_list(Path(manifest.__file__).with_name("textures.csv"))
    sources = [s for s in manifest.from_list(rows, root) if s.split == split and s.normal is not None]
    if not sources:
        raise ValueError(f"Expected textures with normal maps in the split {split!r}, but got none")
    if count is not None and count < len(sources):
        sources = [sources[round(i)] for i in np.linspace(0, len(sources) - 1, count)]
    for source in sources:
        found = manifest.decode(source, SIDE, SIDE)
        if "normal" not in found.maps or found.maps["normal"].shape[:2] != found.basecolor.shape[:2]:
            continue
        image = torch.from_numpy(found.basecolor.copy()).permute(2, 0, 1).float()[None] / 255
        normal = torch.from_numpy(found.maps["normal"].copy()).permute(2, 0, 1)[None]
        axes: Any = ("x" if source.tiles_x else "") + ("y" if source.tiles_y else "") or "none"
        yield Example(source.path, image, normal, axes, source.dup_cluster)


def filtered(image: Tensor, axes: SeamlessAxes, *, sobel: bool) -> tuple[Tensor, Tensor]:
    """Slopes of the luma taken for a height: central differences, or Sobel's, which smooth across."""
    import torch
    from torch.nn import functional as F

    luma = (image * torch.tensor(LUMA)[None, :, None, None]).sum(1, keepdim=True)
    for pad, wrap in (((1, 1, 0, 0), "x" in axes), ((0, 0, 1, 1), "y" in axes)):
        luma = F.pad(luma, pad, mode="circular" if wrap else "replicate")
    across = torch.tensor([1.0, 2.0, 1.0]) / 4 if sobel else torch.tensor([0.0, 1.0, 0.0])
    kernel = torch.tensor([-0.5, 0.0, 0.5])
    turned = kernel[:, None] * across
    return F.conv2d(luma, turned.T[None, None]), F.conv2d(luma, turned[None, None])


def from_slopes(slope_x: Tensor, slope_row: Tensor) -> Tensor:
    """Unit normals (N, 3, H, W)."""
    import torch

    return torch.nn.functional.normalize(torch.cat([-slope_x, slope_row, torch.ones_like(slope_x)], 1), dim=1)


def errors(example: Example, pipeline: MaterialPipeline) -> dict[str, float]:
    """Mean angle in degrees of every method on one texture."""
    import torch

    from benchmarks.autoencoder import normal_error
    from materials.estimate import Prepared, estimate_maps

    truth, out = example.normal, {}
    flat = torch.zeros_like(truth)
    flat[:, 2] = 1
    out["flat"] = float(normal_error(flat, truth).mean())
    for name, sobel in (("luma", False), ("sobel", True)):
        slope_x, slope_row = filtered(example.image, example.axes, sobel=sobel)
        for strength in STRENGTHS:
            made = from_slopes(strength * slope_x, strength * slope_row)
            out[f"{name} x {strength:g}"] = float(normal_error(made, truth).mean())
    made = estimate_maps(Prepared(example.image[0], example.axes, None), model=pipeline)
    return out | {"estimate_maps": float(normal_error(made.normal[None], truth).mean())}


def means(rows: Sequence[Mapping[str, float]], clusters: Sequence[int]) -> dict[str, tuple[float, float]]:
    """Per method its mean over textures and over clusters."""
    groups: dict[int, list[Mapping[str, float]]] = {}
    for row, cluster in zip(rows, clusters, strict=True):
        groups.setdefault(cluster, []).append(row)
    return {
        name: (
            float(np.mean([row[name] for row in rows])),
            float(np.mean([np.mean([row[name] for row in group]) for group in groups.values()])),
        )
        for name in rows[0]
    }


def figures_of(rows: Sequence[Mapping[str, float]], clusters: Sequence[int]) -> list[Figure]:
    """The best strength of each filter, and the network against the best of all, by cluster."""
    found = means(rows, clusters)
    figures = [Figure(name="textures", value=len(rows)), Figure(name="clusters", value=len(set(clusters)))]
    best = []
    for kind in ("flat", "luma", "sobel"):
        name = min((n for n in found if n.startswith(kind)), key=lambda n: found[n][1])
        best.append(found[name][1])
        figures += [
            Figure(name=f"{name}, degrees", value=found[name][0]),
            Figure(name=f"{name}, degrees, by cluster", value=found[name][1]),
        ]
    by_texture, by_cluster = found["estimate_maps"]
    return [
        *figures,
        Figure(name="estimate_maps, degrees", value=by_texture),
        Figure(name="estimate_maps, degrees, by cluster", value=by_cluster, bar=BAR * min(best)),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="ROOT", help="unpacked packages")
    parser.add_argument("--split", default="val", choices=("val", "train"))
    parser.add_argument("--model", help="diffusers folder or hub id; the shipped weights by default")
    parser.add_argument("--count", type=int, help="only so many textures, evenly spread")
    add_json(parser)
    args = parser.parse_args()
    from tqdm import tqdm

    from materials.pipeline import MaterialPipeline

    pipeline = MaterialPipeline.from_pretrained(args.model, device="cpu")
    chosen = list(examples(args.data, args.split, args.count))
    rows = [errors(example, pipeline) for example in tqdm(chosen, unit="texture")]
    details = [{"path": example.path} | row for example, row in zip(chosen, rows, strict=True)]
    return finish("maps", figures_of(rows, [e.cluster for e in chosen]), args.json, {"textures": details})


if __name__ == "__main__":
    raise SystemExit(main())
