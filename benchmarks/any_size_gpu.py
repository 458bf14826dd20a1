"""`asd` at full size on a GPU: calls and seconds a step, the tiled autoencoder, Stable Diffusion under a memory cap.

    python -m benchmarks.any_size_gpu [--only tiles,vae,caps --json FILE]
    python -m benchmarks.any_size_gpu --tiny                                    the same code on toys, anywhere

Networks have the classes and shapes of Stable Diffusion 1.5 and XL and random weights: what they paint means nothing,
what they cost is that of the real ones. Every case runs in a process of its own, so that one that runs out of memory
costs that case alone, and peaks are each case's own.

tiles: one step on a canvas of 4096x4096 pixels by every way of tiling, with guidance; seconds are medians of three
    steps after one. MultiDiffusion's thousands of calls are timed once.
vae: the autoencoder's decoder at 4096x4096 in float16: whole, as diffusers runs it, and by `ExactTiledVAE`.
caps: checkpoints written to a folder, loaded from there, and run by `keep_to` under its limit, two steps a stage.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.table import Figure, add_json, finish

GIB = 2**30
WAYS = ("fstd", "overlap50", "multidiffusion")
GAINS = {"none": {"overlap50": 2.5, "multidiffusion": 30.0}, "xy": {"overlap50": 2.5, "multidiffusion": 30.0}}
CALLS = {"none": {"overlap50": 2.7, "multidiffusion": 40.0}, "xy": {"overlap50": 3.5, "multidiffusion": 50.0}}
CAPS = (("sd1.5", 2048, 4), ("xl", 1024, 4), ("xl", 4096, 8))
"""Layout, pixels along a side, GiB."""
DECODERS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("tiles of 64, on the host", {"tile": 64}),
    ("tiles of 128, on the host", {"tile": 128}),
    ("tiles of 64, 1 GiB held", {"tile": 64, "hold": GIB}),
    ("tiles of 128, 1 GiB held", {"tile": 128, "hold": GIB}),
)


def unet(layout: str, tiny: bool) -> Any:
    """The U-Net of a layout, untrained."""
    from diffusers import UNet2DConditionModel

    plain, crossed = "DownBlock2D", "CrossAttnDownBlock2D"
    levels = (crossed, crossed, crossed, plain) if layout == "sd1.5" else (plain, crossed, crossed)
    shape: dict[str, Any] = {
        "down_block_types": levels,
        "up_block_types": tuple(name.replace("Down", "Up") for name in reversed(levels)),
    }
    if layout == "sd1.5":
        shape |= {"sample_size": 64, "block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768}
        shape |= {"attention_head_dim": 8}
    else:
        shape |= {"sample_size": 128, "block_out_channels": (320, 640, 1280), "cross_attention_dim": 2048}
        shape |= {"attention_head_dim": (5, 10, 20), "transformer_layers_per_block": (1, 2, 10)}
        shape |= {"use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 256}
        shape |= {"projection_class_embeddings_input_dim": 2816}
    if tiny:
        shape |= {"sample_size": 16, "layers_per_block": 1, "norm_num_groups": 4, "attention_head_dim": 4}
        shape |= {"block_out_channels": (8, 16, 16, 16)[: len(levels)]}
        if layout == "xl":
            shape |= {"transformer_layers_per_block": 1}
    return UNet2DConditionModel(**shape).eval()


def autoencoder(layout: str, tiny: bool) -> Any:
    """Stable Diffusion's autoencoder, untrained."""
    from diffusers import AutoencoderKL

    made: Any = AutoencoderKL(
        block_out_channels=(8, 8, 16, 16) if tiny else (128, 256, 512, 512),  # pyright: ignore[reportArgumentType] - typed tuple[int], meant tuple[int, ...]
        down_block_types=("DownEncoderBlock2D",) * 4,  # pyright: ignore[reportArgumentType] - as above
        up_block_types=("UpDecoderBlock2D",) * 4,  # pyright: ignore[reportArgumentType] - as above
        layers_per_block=1 if tiny else 2,
        norm_num_groups=4 if tiny else 32,
        latent_channels=4,
        scaling_factor=0.13025 if layout == "xl" else 0.18215,
        force_upcast=layout == "xl",
    )
    return made.eval()


def checkpoint(layout: str, folder: Path, tiny: bool, device: str) -> Path:
    """A pipeline of the layout, saved in half precision (float32 on a CPU); returns its folder."""
    import torch
    from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{c}</w>" for c in letters)]
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)

    def text(width: int, layers: int, heads: int, kind: Any) -> Any:
        config = CLIPTextConfig(
            hidden_size=width, intermediate_size=4 * width, num_hidden_layers=1 if tiny else layers,
            num_attention_heads=heads, projection_dim=width, bos_token_id=0, eos_token_id=1,
        )  # fmt: skip
        return kind(config).eval()

    with torch.device(device):
        parts: dict[str, Any] = {
            "unet": unet(layout, tiny), "vae": autoencoder(layout, tiny), "tokenizer": tokenizer,
            "text_encoder": text(768, 12, 12, CLIPTextModel), "scheduler": EulerDiscreteScheduler(steps_offset=1),
        }  # fmt: skip
        if layout == "xl":
            parts |= {"text_encoder_2": text(1280, 32, 20, CLIPTextModelWithProjection), "tokenizer_2": tokenizer}
            made: Any = StableDiffusionXLPipeline(**parts, add_watermarker=False)
        else:
            made = StableDiffusionPipeline(
                **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False  # pyright: ignore[reportArgumentType] - optional in fact
            )
    if device != "cpu":
        made.to(dtype=torch.float16)
    made.save_pretrained(folder / layout, safe_serialization=True)
    return folder / layout


def seconds(run: Callable[[], object], device: str, repeats: int) -> float:
    """Median of so many runs; after one more, unless it is timed once."""
    import torch

    taken = []
    for _ in range(repeats + (repeats > 1)):
        began = time.perf_counter()
        run()
        if device != "cpu":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[-repeats:])


def tiles(seamless: Any, way: Any, tiny: bool, device: str) -> dict[str, float]:
    """Calls and seconds of one step at the size of Stable Diffusion 1.5."""
    import torch

    from asd import Seamless, TilePlan
    from asd.sampling import predict

    cells, tile = (64, 16) if tiny else (512, 64)
    dtype = torch.float32 if device == "cpu" else torch.float16
    with torch.device(device):
        network = unet("sd1.5", tiny).to(dtype)
        canvas = torch.randn(1, 4, cells, cells, dtype=dtype)
        text = torch.randn(2, 77, 768, dtype=dtype)
    plan = TilePlan((cells, cells), tile, way, seamless, generator=torch.Generator().manual_seed(0))
    step = iter(range(10**6))

    def answer(parts: Any, timestep: Any, places: Any, /) -> Any:
        prompts = text.repeat_interleave(len(parts), 0)
        both = network(torch.cat([parts, parts]), timestep, prompts, return_dict=False)[0]
        given, without = both.chunk(2)
        return without + 7.5 * (given - without)

    with torch.no_grad(), Seamless(network, plan.tile_seamless):
        timestep = torch.tensor(500, device=device)
        taken = seconds(
            lambda: predict(answer, canvas, timestep, plan.layout(next(step)), batch=8), device,
            1 if way == "multidiffusion" else 3,
        )  # fmt: skip
    # the tiles of a moving grid are one row and column more at some steps; the published figures count a step's most
    return {"calls": max(plan.layout(k).calls for k in range(8)), "seconds": taken}


def decoder(number: int, tiny: bool, device: str) -> dict[str, float]:
    """Seconds and peak GiB of one way to decode; -1 is diffusers' own, whole."""
    import torch

    from asd import ExactTiledVAE

    side = 32 if tiny else 512
    dtype = torch.float32 if device == "cpu" else torch.float16
    with torch.device(device):
        vae = autoencoder("sd1.5", tiny).to(dtype)
        z = torch.randn(1, 4, side, side, dtype=dtype)
    options = {} if number < 0 else dict(DECODERS[number][1])
    if tiny and options:
        options["tile"] = 16
    run: Any = vae if number < 0 else ExactTiledVAE(vae, **options)
    with torch.no_grad():
        if device != "cpu":
            run.decode(z[..., :64, :64])
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        taken = seconds(lambda: run.decode(z), device, 3)
    peak = 0.0 if device == "cpu" else torch.cuda.max_memory_allocated() / GIB
    return {"seconds": taken, "GiB": peak}


def capped(folder: Path, side: int, cap: int, tiny: bool, device: str) -> dict[str, float]:
    """Seconds and peak GiB of a picture under a cap."""
    import torch

    from asd import AnySizePipeline

    pipe = AnySizePipeline.from_pretrained(folder, torch_dtype=torch.float32 if device == "cpu" else torch.float16)
    pipe.set_progress_bar_config(disable=True)
    side = side // 16 if tiny else side
    plan = pipe.keep_to(cap * GIB, (side, side), device)
    print(f"{folder.name} {side}x{side} in {cap} GiB: {plan}", file=sys.stderr, flush=True)
    began = time.perf_counter()
    made = pipe("a b c", width=side, height=side, num_inference_steps=2, output_type="np",
                generator=torch.Generator().manual_seed(0))  # fmt: skip
    taken = time.perf_counter() - began
    assert made.images.shape[1:3] == (side, side)
    return {"seconds": taken, "GiB": 0.0 if device == "cpu" else torch.cuda.max_memory_reserved() / GIB}


def case(text: str, tiny: bool, device: str) -> dict[str, float]:
    """One measurement by its name, as `apart` passes it."""
    from textile_metric.torchvision_guard import guard_torchvision

    guard_torchvision()
    kind, *rest = text.split("|")
    if kind == "tiles":
        return tiles(rest[0], rest[1], tiny, device)
    if kind == "vae":
        return decoder(int(rest[0]), tiny, device)
    if kind == "make":
        checkpoint(rest[0], Path(rest[1]), tiny, device)
        return {}
    return capped(Path(rest[0]), int(rest[1]), int(rest[2]), tiny, device)


def apart(text: str, arguments: argparse.Namespace) -> dict[str, float]:
    """`case` in a process of its own; empty, with the reason on stderr, where that fails."""
    command = [sys.executable, "-m", "benchmarks.any_size_gpu", "--case", text, *(["--tiny"] if arguments.tiny else [])]
    done = subprocess.run(command, capture_output=True, text=True)
    sys.stderr.write("".join(line + "\n" for line in done.stderr.splitlines() if " GiB: " in line))
    if done.returncode:
        print(f"{text}: {(done.stderr.strip().splitlines() or ['?'])[-1][:300]}", file=sys.stderr, flush=True)
        return {}
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    print(f"{text}: {found}", file=sys.stderr, flush=True)  # a run that is cut off has told what it had
    return found


def measure(arguments: argparse.Namespace) -> list[Figure]:
    """All figures of the sections asked for; NaN, which passes no bar, where a case failed."""
    figures: list[Figure] = []
    nan = float("nan")
    wanted = arguments.only.split(",")
    for seamless in ("none", "xy") if "tiles" in wanted else ():
        found = {way: apart(f"tiles|{seamless}|{way}", arguments) for way in WAYS}
        for way, row in found.items():
            figures.append(Figure(name=f"4096², seamless {seamless}, {way}: calls", value=row.get("calls", nan)))
            figures.append(Figure(name=f"4096², seamless {seamless}, {way}: seconds", value=row.get("seconds", nan)))
        for way in WAYS[1:]:
            for what, bars in (("calls", CALLS), ("seconds", GAINS)):
                gain = found[way].get(what, nan) / found["fstd"].get(what, nan)
                name = f"4096², seamless {seamless}: {what} of {way} over fstd's"
                figures.append(Figure(name=name, value=gain, bar=bars[seamless][way], relation=">="))
    if "vae" in wanted:
        whole = apart("vae|-1", arguments)
        figures.append(Figure(name="decode 4096², diffusers, whole: seconds", value=whole.get("seconds", nan)))
        figures.append(Figure(name="decode 4096², diffusers, whole: GiB", value=whole.get("GiB", nan)))
        for number, (name, _) in enumerate(DECODERS):
            row = apart(f"vae|{number}", arguments)
            ratio = row.get("seconds", nan) / whole.get("seconds", nan)
            figures.append(Figure(name=f"decode 4096², {name}: GiB", value=row.get("GiB", nan), bar=3.0))
            figures.append(Figure(name=f"decode 4096², {name}: time over the whole's", value=ratio, bar=1.5))
    if "caps" in wanted:
        with tempfile.TemporaryDirectory() as folder:
            for layout in sorted({layout for layout, _, _ in CAPS}):
                apart(f"make|{layout}|{folder}", arguments)
            for layout, side, cap in CAPS:
                row = apart(f"caps|{folder}/{layout}|{side}|{cap}", arguments)
                figures.append(Figure(name=f"{layout} {side}²: GiB", value=row.get("GiB", nan), bar=cap))
                figures.append(Figure(name=f"{layout} {side}², two steps a stage: s", value=row.get("seconds", nan)))
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="tiles,vae,caps", help="sections (%(default)s)")
    parser.add_argument("--tiny", action="store_true", help="toy shapes, which measure nothing")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    add_json(parser)
    arguments = parser.parse_args()
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if arguments.case:
        print(json.dumps(case(arguments.case, arguments.tiny, device)))
        return 0
    if device == "cpu" and not arguments.tiny:
        print("Expected a GPU, but there is none; --tiny runs the same code on toys.", file=sys.stderr)
        return 2
    details = {"device": torch.cuda.get_device_name() if device == "cuda" else "cpu", "torch": torch.__version__}
    return finish("any_size_gpu", measure(arguments), arguments.json, details)


if __name__ == "__main__":
    raise SystemExit(main())
