"""Distil the U-Net to four steps: `python -m training.distill --teacher UNET` and the options below.

The frozen teacher goes from noise to latents of the training captions as the pipeline does, with its solver and its
guidance, in steps that meet the student's LEVELS. Between two of those the student learns the straight line from one
point of the teacher's path to the next (piecewise rectified flow: Yan et al. 2024, "PeRFlow"), on the line, not only at
its start, so that variations can begin at any noise level. No image is needed, and guidance is inside the student.
Paths are kept and used some times each: a path costs as much as five steps of training.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from materials.defaults import GUIDANCE
from materials.few_steps import LEVELS
from materials.prompt import encode_prompts
from training.bank import TOKENS, Bank, Encoder
from training.captions import caption_variants
from training.diffusion import ASPECTS, LARGE, SQUARE, Text, compile_blocks, load_networks, save, sheet, velocity
from training.loop import Average, Loop, say
from training.models import LATENT_CHANNELS, new_unet, placed
from training.pack import INDEX
from training.paths import few_steps, path
from training.publish import new_scheduler
from training.wrap import wrap_convolutions

WINDOWS = len(LEVELS) - 1
WEIGHTS = (1.0, 1.0, 1.0, 3.0)
"""How often each window is trained on: the last is the longest and decides about detail."""
NATURAL = 0.7
"""Share of paths at the texel scale that the pipeline takes for the canvas; the others at any."""
WRAPS = ((1.0, 1.0), (0.0, 0.0), (1.0, 0.0), (0.0, 1.0))
WRAPPED = (6, 2, 1, 1)
"""Axes that wrap, and how often."""
SAID_NOTHING = 0.04
"""Share of empty captions."""
HELD = 256
"""Paths of captions of validation textures."""

Shape = tuple[int, int]


class Captions:
    """What to make: captions of a split and the rest of the condition, as a `Bank` whose `z` is noise."""

    def __init__(self, packs: Path, split: str, encoder: Encoder, seed: int, limit: int | None = None) -> None:
        rows = json.loads((packs / INDEX).read_text(encoding="utf-8"))["rows"]
        self.rows = [row for row in rows if row["split"] == split][:limit]
        self.encoder, self.rng = encoder, random.Random(seed)
        self.noise = torch.Generator(encoder.device).manual_seed(seed)

    def draw(self, shape: Shape, count: int) -> Bank:
        """`count` conditions and noise for a canvas of (height, width) px."""
        rng, device = self.rng, self.encoder.device
        said: list[str] = []
        for row in rng.choices(self.rows, k=count):
            said.append("" if rng.random() < SAID_NOTHING else caption_variants(row, row["colours"], rng))
        fitting = min(1.0, max(0.0, math.log2(min(shape) / 256)))
        scale = [fitting if rng.random() < NATURAL else rng.random() for _ in range(count)]
        wraps = torch.tensor(rng.choices(WRAPS, WRAPPED, k=count), device=device)
        half = torch.float16 if device.type == "cuda" else torch.float32
        text = encode_prompts(self.encoder.tokenizer, self.encoder.text_encoder, said, length=TOKENS)
        size = (count, LATENT_CHANNELS, shape[0] // 8, shape[1] // 8)
        return Bank(
            torch.randn(size, device=device, generator=self.noise),
            text.tokens.to(half), text.mask, text.pooled.to(half), torch.tensor(scale, device=device),
            wraps[:, 0], wraps[:, 1], torch.ones(count, device=device),
        )  # fmt: skip


class Paths:
    """The teacher's paths at one shape: a `Bank` whose `z` (M, WINDOWS + 1, C, h, w) are the points at LEVELS."""

    def __init__(self, most: int) -> None:
        self.most, self.kept, self.place = most, None, 0
        self.steps = 0

    def add(self, told: Bank, points: Sequence[Tensor]) -> None:
        """Put new paths in place of the oldest; `points` of a whole number of steps a window."""
        every = (len(points) - 1) // WINDOWS
        half = told.tokens.dtype
        fresh = Bank(**{**vars(told), "z": torch.stack(list(points[::every]), 1).to(half)})
        if self.kept is None or len(self.kept) < self.most:
            both = [fresh] if self.kept is None else [self.kept, fresh]
            self.kept = Bank(**{f.name: torch.cat([getattr(b, f.name) for b in both]) for f in fields(Bank)})
            return
        place = slice(self.place, self.place + len(fresh))
        for field in fields(Bank):
            part = getattr(self.kept, field.name)[place]
            part.copy_(getattr(fresh, field.name)[: len(part)])
        self.place = place.stop if place.stop < len(self.kept) else 0

    def draw(self, count: int) -> Bank:
        assert self.kept is not None, "call add first"
        return self.kept.pick(torch.randint(len(self.kept), (count,), device=self.kept.z.device))


def flow_loss(student: nn.Module, paths: Bank, window: Tensor, place: Tensor, empty: Text) -> Tensor:
    """(N,) pseudo-Huber losses of the velocity along the lines between two points of each path.

    window (N,): which line; place (N,) in [0, 1]: how far along it.
    """
    levels = torch.tensor(LEVELS, device=window.device)
    start, end = levels[window], levels[window + 1]
    rows = torch.arange(len(window), device=window.device)
    first, last = (paths.z[rows, window + k].float() for k in (0, 1))
    line = (last - first) / (end - start).view(-1, 1, 1, 1)
    level = start + place * (end - start)
    v = velocity(student, first + (level - start).view(-1, 1, 1, 1) * line, level, paths, empty)
    return ((v - line).square().mean((1, 2, 3)) + 1e-4).sqrt() - 1e-2


def load_unet(path: Path, channels: Sequence[int], device: torch.device) -> nn.Module:
    """The U-Net of a trainer's file, with convolutions that wrap."""
    unet = new_unet((channels[0], channels[1], channels[2]))
    unet.load_state_dict({k: v.float() for k, v in load_file(path).items()})
    return placed(wrap_convolutions(unet), device)


def train(args: argparse.Namespace) -> None:
    loop = Loop(args.minutes, args.out / "distill.jsonl", args.max_steps)
    device = loop.device
    args.out.mkdir(parents=True, exist_ok=True)
    seed = args.seed * 1000 + loop.rank
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    rng = random.Random(seed)
    encoder, empty = load_networks(args.vae, args.text, device)
    teacher = load_unet(args.teacher, args.channels, device).eval().requires_grad_(False)
    student = copy.deepcopy(teacher).requires_grad_(True)
    if args.student:
        student.load_state_dict({k: v.float() for k, v in load_file(args.student).items()})
    loop.synchronise(student)
    average = Average(student, args.ema)
    said = Captions(args.packs, "train", encoder, seed, args.limit)
    unseen = Captions(args.packs, "val", encoder, 0, args.limit)
    scheduler: Any = new_scheduler()
    if args.compile:
        compile_blocks(student)
        compile_blocks(teacher)
    shapes = [*ASPECTS, LARGE]
    stores = {shape: Paths(fitting(shape, args.keep if shape == SQUARE else args.paths)) for shape in (SQUARE, *shapes)}

    def extend(shape: Shape) -> None:
        told = said.draw(shape, fitting(shape, args.paths))
        stores[shape].add(told, path(teacher, told.z, told, empty, scheduler, args.teacher_steps, args.guidance))

    loop.begin()
    held = unseen.draw(SQUARE, args.held)
    with torch.compiler.set_stance("force_eager"):
        points = path(teacher, held.z, held, empty, scheduler, args.teacher_steps, args.guidance)
    validation = Paths(args.held)
    validation.add(held, points)
    assert validation.kept is not None
    for _ in range(args.begin):
        extend(SQUARE)
    say(f"first paths after {loop.elapsed:.0f} s")
    optimiser = torch.optim.AdamW(
        student.parameters(), args.rate, betas=(0.9, 0.99), weight_decay=0.0, fused=device.type == "cuda"
    )
    odds = torch.tensor(WEIGHTS, device=device)
    next_sheet = args.sheet_every * 60.0
    while not loop.done:
        square = rng.random() >= args.other_shapes
        shape = SQUARE if square else rng.choice(shapes)
        store = stores[shape]
        with torch.compiler.set_stance("default" if square else "force_eager"):
            if store.kept is None or store.steps % args.uses == 0:
                extend(shape)
            store.steps += 1
            paths = store.draw(fitting(shape, args.batch))
            n = len(paths)
            window = torch.multinomial(odds, n, replacement=True)
            place = torch.rand(n, device=device) * (torch.rand(n, device=device) < 0.5)
            losses = flow_loss(student, paths, window, place, empty)
            optimiser.zero_grad(set_to_none=True)
            losses.mean().backward()
        parameters = list(student.parameters())
        loop.average(parameters)
        norm = nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        for group in optimiser.param_groups:
            group["lr"] = loop.rate(args.rate, args.warmup, 0.5)
        optimiser.step()
        average.update(student)
        loop.tick(200, grad=norm, flow=losses.mean())
        if loop.rank == 0 and (loop.elapsed > next_sheet or loop.done):
            next_sheet += args.sheet_every * 60
            with average.applied(student), torch.compiler.set_stance("force_eager"):
                say(f"step {loop.step}: {validate(student, validation.kept, empty)}")
                sheet(student, encoder.vae, encoder, empty, args.out / "sheet.jpg", guidance=1.0, sigmas=LEVELS)
                save(student, args.out)


def fitting(shape: Shape, count: int) -> int:
    """As many canvases of a shape as have the area of `count` square ones."""
    return max(1, count * SQUARE[0] * SQUARE[1] // (shape[0] * shape[1]))


@torch.no_grad()
def validate(student: nn.Module, paths: Bank, empty: Text) -> dict[str, Any]:
    """Loss at the start of each window on held-out paths; of what four steps arrive at, the distance and the spread.

    Both in the teacher's own spread: the share of its variance that is missed, and how much variance there is.
    """
    parts = [paths.pick(i) for i in torch.arange(len(paths), device=paths.z.device).split(64)]
    by_window = []
    for k in range(WINDOWS):
        found = []
        for part in parts:
            window = torch.full((len(part),), k, device=part.z.device)
            found.append(flow_loss(student, part, window, torch.zeros_like(window, dtype=torch.float32), empty))
        by_window.append(round(float(torch.cat(found).mean()), 5))
    made = torch.cat([few_steps(student, part.z[:, 0].float(), part, empty) for part in parts])
    wanted = paths.z[:, -1].float()
    missed = float((made - wanted).square().mean() / wanted.var())
    return {"windows": by_window, "missed": round(missed, 4), "spread": round(float(made.var() / wanted.var()), 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, required=True, help="weights of the many-step U-Net")
    parser.add_argument("--student", type=Path, help="weights to go on from; the teacher's by default")
    parser.add_argument("--packs", type=Path, required=True, help="its index.json alone is read, for the captions")
    parser.add_argument("--vae", type=Path, required=True, help="for the sheet of samples")
    parser.add_argument("--text", type=Path, required=True, help="folder with MiniLM-L6 and its tokenizer")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=12.0)
    parser.add_argument("--max-steps", type=int)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--paths", type=int, default=512, help="drawn at once")
    parser.add_argument("--keep", type=int, default=8192, help="paths that are kept")
    parser.add_argument("--begin", type=int, default=4, help="so often paths are drawn before the first step")
    parser.add_argument("--uses", type=int, default=12, help="steps until paths are drawn again")
    parser.add_argument("--held", type=int, default=HELD)
    parser.add_argument("--teacher-steps", type=int, default=12, help="of a path; a multiple of four")
    parser.add_argument("--guidance", type=float, default=GUIDANCE, help="of the teacher")
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument("--warmup", type=int, default=100)
    parser.add_argument("--ema", type=float, default=0.998)
    parser.add_argument("--other-shapes", type=float, default=0.08, help="share of steps on shapes other than 256x256")
    parser.add_argument("--sheet-every", type=float, default=2.5, help="minutes")
    parser.add_argument("--channels", type=int, nargs=3, default=(128, 256, 352))
    parser.add_argument("--limit", type=int)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=torch.cuda.is_available())
    args = parser.parse_args()
    if args.teacher_steps % WINDOWS:
        parser.error(f"expected teacher steps that {WINDOWS} divides, but got {args.teacher_steps}")
    train(args)


if __name__ == "__main__":
    main()
