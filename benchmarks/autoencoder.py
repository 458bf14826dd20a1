"""What does the autoencoder lose? Real validation textures, and held-out procedural materials with exact maps.

    python -m benchmarks.autoencoder --packs DIR [--count N --seeds N --json FILE]

Real: the pack's validation split, short side 256 px, centre 256x256; the encoder is given all maps that the texture
has, then the basecolor alone. Mean of per-image PSNR of the basecolor (sRGB-encoded, peak 1, bar 28 dB) and mean
CIEDE2000 between the mean CIELAB colours of both tiles (bar 1.5). Procedural: every family with its full relief at
256x256 px, all maps given, seeds from 10^9 up (training draws from 2^40 at random): mean angle between the normals (bar
8 degrees), RMSE of roughness, metallic and height (bar 0.06), over all families; the worst family and each one are
listed. Convolutions are circular on the axes on which the image tiles; outputs are clamped to [-1, 1] first.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.table import Figure, add_json, finish

if TYPE_CHECKING:
    from torch import Tensor

    from asd.seamless import SeamlessAxes
    from materials.pipeline import MaterialPipeline

Array = NDArray[np.float64]
SIDE = 256
FIRST_SEED = 10**9
PSNR, COLOUR, DEGREES, RMSE = 28.0, 1.5, 8.0, 0.06
SCALARS = ("height", "roughness", "metallic")


def ciede2000(first: Array, second: Array) -> Array:
    """CIEDE2000 colour difference (...) of CIELAB colours (..., 3), kL = kC = kH = 1.

    Sharma, Wu & Dalal 2005, "The CIEDE2000 color-difference formula: implementation notes, supplementary test data, and
    mathematical observations", Color Research & Application 30(1), equations 2 to 22.
    """
    first, second = np.broadcast_arrays(np.asarray(first, np.float64), np.asarray(second, np.float64))
    light, a, b = (np.stack([first[..., i], second[..., i]]) for i in range(3))
    mean_c7 = np.hypot(a, b).mean(0) ** 7
    a = a * (1.5 - 0.5 * np.sqrt(mean_c7 / (mean_c7 + 25.0**7)))
    chroma, hue = np.hypot(a, b), np.degrees(np.arctan2(b, a)) % 360
    grey = chroma[0] * chroma[1] == 0
    turn = hue[1] - hue[0]
    turn = np.where(grey, 0, (turn + 180) % 360 - 180)
    # Exactly opposite hues: +180 stays, as in equation 10.
    turn = np.where((turn == -180) & (hue[1] > hue[0]), 180.0, turn)
    d_light, d_chroma = light[1] - light[0], chroma[1] - chroma[0]
    d_hue = 2 * np.sqrt(chroma[0] * chroma[1]) * np.sin(np.radians(turn) / 2)
    total = hue[0] + hue[1]
    far = np.abs(hue[0] - hue[1]) > 180
    mean_h = np.where(far, np.where(total < 360, total + 360, total - 360), total) / 2
    mean_h = np.where(grey, total, mean_h)
    mean_l, mean_c = light.mean(0), chroma.mean(0)
    t = 1 - 0.17 * _cos(mean_h - 30) + 0.24 * _cos(2 * mean_h)
    t = t + 0.32 * _cos(3 * mean_h + 6) - 0.20 * _cos(4 * mean_h - 63)
    s_l = 1 + 0.015 * (mean_l - 50) ** 2 / np.sqrt(20 + (mean_l - 50) ** 2)
    s_c, s_h = 1 + 0.045 * mean_c, 1 + 0.015 * mean_c * t
    swing = 30 * np.exp(-(((mean_h - 275) / 25) ** 2))
    rotation = -np.sin(np.radians(2 * swing)) * 2 * np.sqrt(mean_c**7 / (mean_c**7 + 25.0**7))
    l, c, h = d_light / s_l, d_chroma / s_c, d_hue / s_h  # noqa: E741 - the formula's own letters
    return np.sqrt(np.maximum(l * l + c * c + h * h + rotation * c * h, 0))


def _cos(degrees: Array) -> Array:
    return np.cos(np.radians(degrees))


def psnr(fake: Tensor, real: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of images in [0, 1]."""
    import math

    return -10 * math.log10(max(float((fake - real).square().mean()), 1e-12))


def mean_lab(image: Tensor) -> Array:
    """Mean CIELAB colour (3,) of an sRGB-encoded image (3, H, W) in [0, 1]."""
    from training.captions import srgb_to_lab

    return srgb_to_lab(image.permute(1, 2, 0).numpy() * 255).reshape(-1, 3).mean(0)


def normal_error(fake: Tensor, real: Tensor) -> Tensor:
    """Angle in degrees (N, H, W) between unit normals (N, 3, H, W)."""
    import torch

    sine = torch.linalg.vector_norm(torch.linalg.cross(fake, real, dim=1), dim=1)
    return torch.rad2deg(torch.atan2(sine, (fake * real).sum(1)))


def reconstruct(pipeline: MaterialPipeline, given: Tensor, axes: SeamlessAxes) -> Tensor:
    """What comes back of maps (N, 8, H, W), clamped to [-1, 1]."""
    import torch

    from asd.seamless import Seamless

    with torch.inference_mode(), Seamless(pipeline.vae, axes):
        return pipeline.vae.decoder(pipeline.vae.encoder(given)).clamp(-1, 1)


@dataclass(frozen=True)
class Texture:
    """Maps (8, 256, 256) in [-1, 1] of a validation texture, MISSING where unknown, and the axes that wrap."""

    name: str
    maps: Tensor
    axes: SeamlessAxes


def textures(packs: Path, count: int | None) -> Iterator[Texture]:
    """The validation split, `count` of it evenly spread. Raises ValueError where there is none."""
    import torch

    from training.pack import Pack
    from training.views import Item, RealTextures

    def tensor(values: NDArray[Any] | None) -> Tensor | None:
        return None if values is None else torch.from_numpy(np.atleast_3d(values)).permute(2, 0, 1)

    pack = Pack(packs)
    chosen = pack.split("val")
    if not chosen:
        raise ValueError(f"Expected a validation split in {packs}, but got none")
    if count is not None and count < len(chosen):
        chosen = [chosen[round(i)] for i in np.linspace(0, len(chosen) - 1, count)]
    assembler = RealTextures(packs, "val", torch.device("cpu"), limit=0)
    for i in chosen:
        row, loaded = pack.row(i), pack.load(i)
        base = torch.from_numpy(loaded["basecolor"].copy()).permute(2, 0, 1)
        normal, height = (tensor(loaded.get(name)) for name in ("normal", "height"))
        item = Item(base, normal, height, row["tiles_x"], row["tiles_y"], row)
        rows, columns = base.shape[-2:]
        factor = SIDE / min(rows, columns)
        size = (max(SIDE, round(rows * factor)), max(SIDE, round(columns * factor)))
        maps, _ = assembler.assemble(item, size)
        top, left = (size[0] - SIDE) // 2, (size[1] - SIDE) // 2
        wraps = ("x" if item.tiles_x and size[1] == SIDE else "") + ("y" if item.tiles_y and size[0] == SIDE else "")
        axes: Any = wraps or "none"
        yield Texture(row["path"], maps[:, top : top + SIDE, left : left + SIDE].contiguous(), axes)


def real_figures(pipeline: MaterialPipeline, packs: Path, count: int | None) -> tuple[list[Figure], dict[str, Any]]:
    """PSNR and colour error of the basecolor, given all known maps and given the basecolor alone."""
    import torch
    from tqdm import tqdm

    from materials.material import basecolor_alone

    found: dict[str, list[dict[str, Any]]] = {"all known maps": [], "basecolor alone": []}
    for texture in tqdm(textures(packs, count), unit="image"):
        real = texture.maps[:3] * 0.5 + 0.5
        bare = basecolor_alone(texture.maps[None, :3])[0]
        both = reconstruct(pipeline, torch.stack([texture.maps, bare]), texture.axes)
        for given, maps in zip(found, both, strict=True):
            fake = maps[:3] * 0.5 + 0.5
            colour = float(ciede2000(mean_lab(fake), mean_lab(real)))
            found[given].append({"path": texture.name, "psnr": psnr(fake, real), "colour": colour})
    figures = [Figure(name="validation images", value=len(found["basecolor alone"]))]
    for given, rows in found.items():
        mean_psnr, mean_colour = (float(np.mean([r[k] for r in rows])) for k in ("psnr", "colour"))
        figures += [
            Figure(name=f"basecolor PSNR in dB, given {given}", value=mean_psnr, bar=PSNR, relation=">="),
            Figure(name=f"colour error (CIEDE2000), given {given}", value=mean_colour, bar=COLOUR),
        ]
    return figures, {"real": found}


def family_errors(pipeline: MaterialPipeline, family: str, seeds: Sequence[int]) -> dict[str, float]:
    """Mean normal error in degrees and mean squared errors of the scalar maps in [0, 1] of one family."""
    from materials.material import normal_from_xy
    from materials.procedural import sample

    batch = sample(family, seeds, (SIDE, SIDE))
    given = batch.network()
    fake = reconstruct(pipeline, given, "xy")
    out = {"normal": float(normal_error(normal_from_xy(fake[:, 3:5]), batch.normal).mean())}
    for channel, name in enumerate(SCALARS, 5):
        out[name] = float(((fake[:, channel] - given[:, channel]) / 2).square().mean())
    return out


def procedural_figures(pipeline: MaterialPipeline, per_family: int) -> tuple[list[Figure], dict[str, Any]]:
    """Errors over all families (with bars), of the worst one, and of each."""
    from tqdm import tqdm

    from materials.procedural import FAMILIES

    found: dict[str, dict[str, float]] = {}
    for k, family in enumerate(tqdm(sorted(FAMILIES), unit="family")):
        seeds = [FIRST_SEED + k * per_family + i for i in range(per_family)]
        found[family] = family_errors(pipeline, family, seeds)
    overall = {key: float(np.mean([e[key] for e in found.values()])) for key in ("normal", *SCALARS)}

    def figures_of(label: str, errors: dict[str, float], barred: bool) -> list[Figure]:
        degrees = Figure(name=f"{label}: normal, degrees", value=errors["normal"], bar=DEGREES if barred else None)
        return [degrees] + [
            Figure(name=f"{label}: {name} RMSE", value=errors[name] ** 0.5, bar=RMSE if barred else None)
            for name in SCALARS
        ]

    figures = [Figure(name="procedural materials", value=per_family * len(found))]
    figures += figures_of("all families", overall, True)
    worst = {key: max(e[key] for e in found.values()) for key in overall}
    figures += figures_of("worst family", worst, False)
    for family, errors in found.items():
        figures += figures_of(f"  {family}", errors, False)
    rows = {f: {k: v if k == "normal" else v**0.5 for k, v in e.items()} for f, e in found.items()}
    return figures, {"procedural": rows}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packs", type=Path, help="training pack; without it only procedural materials are measured")
    parser.add_argument("--model", help="diffusers folder or hub id; the shipped weights by default")
    parser.add_argument("--count", type=int, help="only so many validation images, evenly spread")
    parser.add_argument("--seeds", type=int, default=4, help="materials of each procedural family; 0 leaves them out")
    add_json(parser)
    args = parser.parse_args()
    from materials.pipeline import MaterialPipeline

    pipeline = MaterialPipeline.from_pretrained(args.model, device="cpu")
    figures: list[Figure] = []
    details: dict[str, Any] = {}
    if args.packs:
        figures, details = real_figures(pipeline, args.packs, args.count)
    if args.seeds > 0:
        more, rows = procedural_figures(pipeline, args.seeds)
        figures, details = figures + more, details | rows
    return finish("autoencoder", figures, args.json, details)


if __name__ == "__main__":
    raise SystemExit(main())
