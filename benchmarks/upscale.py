"""Does the upscaler bring textures closer to the truth than a bicubic and ESRGAN, and what does a large one cost?

    python -m benchmarks.upscale --data ROOT --report PATH/generator_report.py [--esrgan PACKAGE/models/x4]
        [--second-stage S,S --count N --model FILE_OR_FOLDER --pictures DIR --json FILE]
    python -m benchmarks.upscale --cost 2048 8192 [--threads 2 --device cpu --model FILE_OR_FOLDER --json FILE]

ROOT holds the unpacked packages. N validation images, evenly spread, each cut to its middle 256x256 pixels as it is in
its file, are shrunk by 4 (antialiased cubic, to bytes) and enlarged again by every way. The feature distance is that of
the report: Euclidean, between what its `describe` says of the result and of the true image, mean over images; lower is
closer. PSNR is of the sRGB values. `--second-stage` adds the material model's at these strengths.

With `--cost` pictures of noise are enlarged to squares of those sides in files, each in a fresh process: peak RSS
(`ru_maxrss`, loading included), and a pixel's processor time beside that of the first side, which other programs on the
machine change less than the wall clock. On a GPU (`--device cuda`) that is the wall clock, the disk included, since the
processor waits there; bars: 2 GB on a processor, 8 GB of host memory on a GPU, and 1.1 of a pixel of the first.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.table import Figure, add_json, finish

# Nothing heavy is imported in the process that starts the others: Linux hands its peak RSS on to them.
if TYPE_CHECKING:
    from torch import Tensor

    from asd.texture_upscaler import TextureUpscaler

SIDE = 256
FACTOR = 4
BAR = 0.65
"""Largest feature distance, in that of a bicubic."""
PEAK_GB = {"cpu": 2.0, "cuda": 8.0}
MORE_PER_PIXEL = 1.1


def crops(data: Path, manifest: Path, count: int) -> list[Tensor]:
    """`count` middle crops (3, 256, 256) in [0, 1] of validation images that are large enough, evenly spread."""
    import numpy as np
    import torch

    from training.images import open_image, to_rgb

    with manifest.open(encoding="utf-8", newline="") as handle:
        rows = [row for row in csv.DictReader(handle) if row["split"] == "val"]
    rows = [row for row in rows if min(int(row["width"]), int(row["height"])) >= SIDE]
    made = []
    for i in np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int):
        base = torch.from_numpy(to_rgb(open_image(data / rows[i]["path"])).copy()).permute(2, 0, 1) / 255
        top, left = ((side - SIDE) // 2 for side in base.shape[-2:])
        made.append(base[:, top : top + SIDE, left : left + SIDE].contiguous())
    return made


def load_model(path: Path | None, device: str = "cpu") -> TextureUpscaler:
    """The upscaler that ships, that of a diffusers folder, or that of a trainer's file."""
    from asd.texture_enlarge import load_upscaler
    from asd.texture_upscaler import load_file
    from training.models import placed

    if path is not None and path.is_file():
        import torch

        return placed(load_file(path), torch.device(device))
    return load_upscaler(device, path)


def compare(args: argparse.Namespace) -> int:
    """Feature distances and PSNR of all ways."""
    import numpy as np
    import torch
    from tqdm import tqdm

    from asd.pictures import from_tensor
    from asd.resample import resample
    from asd.texture_enlarge import enlarged_texture, has_upscaler
    from benchmarks.autoencoder import psnr
    from textile_metric.torchvision_guard import guard_torchvision

    guard_torchvision()
    report = runpy.run_path(str(args.report), run_name="generator_report")
    net = report["load_lite0"]()
    manifest = args.manifest or args.report.resolve().parent.parent / "data" / "textures.csv"
    ways: dict[str, Callable[[Tensor, int], Tensor]] = {
        "bicubic": lambda low, _: resample(low[None], (SIDE, SIDE), wrap_x=False, wrap_y=False)[0],
    }
    if args.model or has_upscaler():
        model = load_model(args.model)
        ways["ours"] = lambda low, k: enlarged_texture(low, model, (SIDE, SIDE), seed=k)
    if args.esrgan:
        from benchmarks.esrgan_thick import LayersModel

        rival = LayersModel(args.esrgan)
        ways["ESRGAN-thick"] = lambda low, _: rival(low[None])[0]
    if args.second_stage:
        from materials.pipeline import MaterialPipeline
        from materials.textures import upscale_texture

        pipeline = MaterialPipeline.from_pretrained(device="cpu")
        for text in args.second_stage.split(","):

            def painted(low: Tensor, k: int, strength: float = float(text)) -> Tensor:
                return upscale_texture(pipeline, low, size=(SIDE, SIDE), seed=k, strength=strength)

            ways[f"second stage, strength {text}"] = painted
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for k, true in enumerate(tqdm(crops(args.data, manifest, args.count), unit="image")):
        low = resample(true[None], (SIDE // FACTOR, SIDE // FACTOR), wrap_x=False, wrap_y=False)[0]
        low = (low * 255).round().clamp(0, 255) / 255
        made = {name: (way(low, k) * 255).round().clamp(0, 255) / 255 for name, way in ways.items()}
        shown = [(x * 255).round().byte().permute(1, 2, 0).numpy() for x in (true, *made.values())]
        told = report["describe"](net, shown)
        for name, values, picture in zip(made, told[1:], made.values(), strict=True):
            found[name].append((psnr(picture, true), float(np.linalg.norm(values - told[0]))))
        if args.pictures:
            args.pictures.mkdir(parents=True, exist_ok=True)
            row = torch.cat([*made.values(), true], -1)[None] * 2 - 1
            from_tensor(row, "pil")[0].save(args.pictures / f"{k:03d}.png")
    mean = {name: [sum(column) / len(rows) for column in zip(*rows, strict=True)] for name, rows in found.items()}
    figures = [Figure(name="images", value=len(found["bicubic"]))]
    for name, (peak, apart) in mean.items():
        figures.append(Figure(name=f"{name}: PSNR in dB", value=peak))
        figures.append(Figure(name=f"{name}: feature distance", value=apart))
    for other, bar in (("bicubic", BAR), ("ESRGAN-thick", 1.0)):
        if "ours" in mean and other in mean:
            share = mean["ours"][1] / mean[other][1]
            figures.append(Figure(name=f"ours: feature distance in that of {other}", value=share, bar=bar))
    return finish("upscale", figures, args.json, {"rows": found})


def work(side: int, threads: int, model: Path | None, device: str = "cpu") -> dict[str, float]:
    """Enlarge noise to `side` x `side` in this process: seconds, busy (the processor's) and peak_gb (10^9 bytes).

    With a GPU, device_gb is the most that lay there.
    """
    import resource

    import numpy as np
    import torch

    from asd.texture_enlarge import TextureEnlargement, enlarge_texture
    from asd.texture_tiles import TILE

    torch.set_num_threads(threads)
    network = load_model(model, device)
    small = np.random.default_rng(0).integers(0, 256, (3, side // FACTOR, side // FACTOR), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        # a GPU chooses its kernels by the shape: a whole tile
        warm = 64 if device == "cpu" else TILE
        first = small[:, :warm, :warm]
        target = (first.shape[2] * FACTOR, first.shape[1] * FACTOR)
        enlarge_texture(first, network, Path(folder, "warm"), TextureEnlargement(size=target))
        began, busy = time.perf_counter(), time.process_time()
        enlarge_texture(small, network, Path(folder, "job"), TextureEnlargement(size=(side, side)))
        seconds, busy = time.perf_counter() - began, time.process_time() - busy
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
    there = torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else 0.0
    return {"seconds": seconds, "busy": busy, "peak_gb": peak, "device_gb": there}


def cost(args: argparse.Namespace) -> int:
    """Seconds and memory of large results, each made in a process of its own."""
    figures, first = [], None
    for side in args.cost:
        command = [sys.executable, "-m", "benchmarks.upscale", "--worker", "--cost", str(side)]
        command += ["--threads", str(args.threads), "--device", args.device]
        command += ["--model", str(args.model)] if args.model else []
        environment = os.environ | {"OMP_NUM_THREADS": str(args.threads)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise RuntimeError(f"side {side}: {done.stderr[-2000:]}")
        told = json.loads(done.stdout.splitlines()[-1])
        each = told["busy" if args.device == "cpu" else "seconds"] / side**2
        first = first or each
        figures.append(Figure(name=f"{side}x{side}: seconds", value=told["seconds"]))
        figures.append(Figure(name=f"{side}x{side}: processor seconds", value=told["busy"]))
        figures.append(Figure(name=f"{side}x{side}: peak RSS in GB", value=told["peak_gb"], bar=PEAK_GB[args.device]))
        if told["device_gb"]:
            figures.append(Figure(name=f"{side}x{side}: peak on the GPU in GB", value=told["device_gb"]))
        bar = None if side == args.cost[0] else MORE_PER_PIXEL
        figures.append(Figure(name=f"{side}x{side}: cost of a pixel in the first's", value=each / first, bar=bar))
    return finish("upscale cost", figures, args.json, {"threads": args.threads, "device": args.device})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the unpacked packages")
    parser.add_argument("--report", type=Path, help="generator_report.py")
    parser.add_argument("--manifest", type=Path, help="list of the images; the report's own by default")
    parser.add_argument("--esrgan", type=Path, help="models/x4 of the npm package @upscalerjs/esrgan-thick")
    parser.add_argument("--model", type=Path, help="a trainer's file or a diffusers folder; else what ships")
    parser.add_argument("--second-stage", metavar="S,S", help="strengths of the material model's second stage")
    parser.add_argument("--count", type=int, default=100, help="images")
    parser.add_argument("--pictures", type=Path, help="a folder for the results side by side, the truth last")
    parser.add_argument("--cost", type=int, nargs="+", metavar="SIDE", help="measure these sizes instead")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=sorted(PEAK_GB), default="cpu", help="of --cost")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    add_json(parser)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(work(args.cost[0], args.threads, args.model, args.device)))
        return 0
    if args.cost:
        return cost(args)
    if args.data is None or args.report is None:
        parser.error("--data and --report, or --cost, are required")
    return compare(args)


if __name__ == "__main__":
    raise SystemExit(main())
