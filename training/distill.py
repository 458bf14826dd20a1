"""Distil the U-Net to four steps: `python -m training.distill --resume UNET` and the options of `training.diffusion`.

Piecewise rectified flow (Yan et al. 2024, "PeRFlow"): time is cut into windows, one a step. In each the frozen teacher
leads noised data from the window's start to its end in several small steps, with classifier-free guidance where the
pipeline guides, and the student learns the straight line between the two: one step a window follows, guidance inside
it. On the line, not only at its start, so that variations can begin at any noise level. `--adversary` adds a critic of
what the last window arrives at, on features of the teacher (Sauer et al. 2024, "LADD"): the mean of what is possible is
blurred.
"""

from __future__ import annotations

import argparse
import copy
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from materials.defaults import GUIDANCE
from materials.pipeline import GUIDED
from training.bank import Bank
from training.diffusion import SQUARE, Prepared, Text, compile_blocks, draw, parser_of, prepare, save, sheet, velocity
from training.loop import Average, Loop, say

LEVELS = (1.0, 0.9, 0.75, 0.5, 0.0)
"""Noise levels between the windows: the pipeline's scheduler (flow shift 3) with four steps."""
SUBSTEPS = (2, 3, 4, 6)
"""Euler steps of the teacher in each window; the last is the longest and the most curved."""


@torch.no_grad()
def led(teacher: nn.Module, x: Tensor, window: int, batch: Bank, empty: Text, guidance: float) -> Tensor:
    """Where the guided teacher takes x from the window's start to its end."""
    start, end = LEVELS[window], LEVELS[window + 1]
    n = len(x)
    everything = torch.zeros(2 * n, dtype=torch.bool, device=x.device)
    everything[n:] = True
    twice = Bank(**{name: torch.cat([value, value]) for name, value in vars(batch).items()})
    levels = torch.linspace(start, end, SUBSTEPS[window] + 1).tolist()
    for now, then in pairwise(levels):
        if GUIDED[0] <= now <= GUIDED[1]:
            both = velocity(teacher, torch.cat([x, x]), x.new_full((2 * n,), now), twice, empty, everything)
            v = both[n:] + guidance * (both[:n] - both[n:])
        else:
            v = velocity(teacher, x, x.new_full((n,), now), batch, empty)
        x = x + (then - now) * v
    return x


def flow_loss(
    student: nn.Module, teacher: nn.Module, batch: Bank, window: int, empty: Text, guidance: float, noise: Tensor,
    place: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(pseudo-Huber loss of the velocity along the window's line, what the student takes the batch to at its end).

    `place` (N,) in [0, 1]: how far along the line each sample is looked at.
    """
    start, end = LEVELS[window], LEVELS[window + 1]
    z = batch.z.float()
    x = (1 - start) * z + start * noise
    arrived = led(teacher, x, window, batch, empty, guidance)
    line = (arrived - x) / (end - start)
    level = start + place * (end - start)
    here = x + (level - start).view(-1, 1, 1, 1) * line
    v = velocity(student, here, level, batch, empty)
    error = (v - line).square().mean((1, 2, 3))
    return ((error + 1e-4).sqrt() - 1e-2).mean(), here + (end - level).view(-1, 1, 1, 1) * v


class Critic(nn.Module):
    """Real or made, for each cell of noised latents: a small head on features of the frozen teacher."""

    def __init__(self, teacher: nn.Module, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(w, 96, 1), nn.SiLU(), nn.Conv2d(96, 96, 3, padding=1), nn.SiLU(), nn.Conv2d(96, 1, 1)
            )
            for w in widths
        )
        self._found: list[Tensor] = []
        blocks: Any = teacher.down_blocks
        for block in blocks:
            block.register_forward_hook(lambda module, given, made: self._found.append(made[0]))

    def forward(self, teacher: nn.Module, z: Tensor, noise: Tensor, level: Tensor, batch: Bank, empty: Text) -> Tensor:
        """(N, cells) scores of latents z noised to levels (N,), high for real."""
        self._found.clear()
        s = level.view(-1, 1, 1, 1)
        velocity(teacher, (1 - s) * z + s * noise, level, batch, empty)
        scores = [head(f.float()).flatten(1) for head, f in zip(self.heads, self._found, strict=True)]
        self._found.clear()
        return torch.cat(scores, 1)


def train(args: argparse.Namespace) -> None:
    loop = Loop(args.minutes, args.out / "distill.jsonl", args.max_steps)
    device = loop.device
    made = prepare(args, loop)
    student, banks, rng, empty = made.unet, made.banks, made.rng, made.empty
    teacher = copy.deepcopy(student).eval().requires_grad_(False)
    average = Average(student, args.ema)
    critic = Critic(teacher, tuple(args.channels)).to(device) if args.adversary else None
    if args.compile:
        compile_blocks(student)
        compile_blocks(teacher)
    parameters = list(student.parameters())
    fused = device.type == "cuda"
    optimiser = torch.optim.AdamW(parameters, args.rate, betas=(0.9, 0.99), weight_decay=0.0, fused=fused)
    critics = None if critic is None else torch.optim.AdamW(critic.parameters(), args.critic_rate, betas=(0.5, 0.99))
    others = [k for k in banks if k != SQUARE]
    loop.begin()
    next_sheet = args.sheet_every * 60.0
    while not loop.done:
        square = rng.random() >= args.other_shapes
        batch = draw(banks, SQUARE if square else rng.choice(others), args.batch)
        batch.domain = torch.ones_like(batch.domain)  # the one that the pipeline asks for
        n = len(batch)
        # the last window decides about detail: half of the steps
        window = rng.choice((0, 1, 2, 3, 3, 3))
        place = torch.rand(n, device=device) * (torch.rand(n, device=device) < 0.5)
        noise = torch.randn(batch.z.shape, device=device)
        if args.renew and loop.step % args.renew == 0:
            made.renew(args.chunk)
        with torch.compiler.set_stance("default" if square else "force_eager"):
            loss, arrived = flow_loss(student, teacher, batch, window, empty, args.guidance, noise, place)
            losses = {"flow": loss, f"window{window}": loss.detach()}
            total = loss
            judged = critic is not None and square and window == len(SUBSTEPS) - 1
            level, fresh = torch.rand(n, device=device) * 0.6, torch.randn_like(noise)
            if critic is not None and judged:
                losses["fooled"] = -critic(teacher, arrived, fresh, level, batch, empty).mean()
                total = total + args.adversary * losses["fooled"]
        optimiser.zero_grad(set_to_none=True)
        total.backward()
        loop.average(parameters)
        norm = nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        for group in optimiser.param_groups:
            group["lr"] = loop.rate(args.rate, args.warmup, 0.5)
        optimiser.step()
        if critic is not None and critics is not None and judged:
            critics.zero_grad(set_to_none=True)  # the student's turn left gradients there too
            real = critic(teacher, batch.z.float(), fresh, level, batch, empty)
            fake = critic(teacher, arrived.detach(), fresh, level, batch, empty)
            losses["critic"] = F.relu(1 - real).mean() + F.relu(1 + fake).mean()
            losses["critic"].backward()
            loop.average(critic.parameters())
            critics.step()
        average.update(student)
        loop.tick(200, grad=norm, **losses)
        if loop.rank == 0 and loop.elapsed > next_sheet and not loop.done:
            next_sheet += args.sheet_every * 60
            keep(made, teacher, average, args, loop.step)
    if loop.rank == 0:
        keep(made, teacher, average, args, loop.step)


@torch.no_grad()
def validate(student: nn.Module, teacher: nn.Module, bank: Bank, empty: Text, guidance: float) -> list[float]:
    """Flow loss at the start of each window on a held-out bank, the same noise each time."""
    generator = torch.Generator(bank.z.device).manual_seed(0)
    found = []
    for window in range(len(SUBSTEPS)):
        losses = []
        for index in torch.arange(len(bank), device=bank.z.device).split(128):
            part = bank.pick(index)
            part.domain = torch.ones_like(part.domain)
            noise = torch.randn(part.z.shape, device=part.z.device, generator=generator)
            start = noise.new_zeros(len(part))
            losses.append(flow_loss(student, teacher, part, window, empty, guidance, noise, start)[0] * len(part))
        found.append(round(float(torch.stack(losses).sum()) / len(bank), 5))
    return found


def keep(made: Prepared, teacher: nn.Module, average: Average, args: argparse.Namespace, step: int) -> None:
    """Validate, draw and save the averaged weights, then put the training ones back."""
    student = made.unet
    with average.applied(student):
        with torch.compiler.set_stance("force_eager"):
            say(f"step {step}: by window {validate(student, teacher, made.validation, made.empty, args.guidance)}")
            sheet(student, made.vae, made.encoder, made.empty, args.out / "sheet.jpg", guidance=1.0, sigmas=LEVELS)
        save(student, args.out)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument("--warmup", type=int, default=50)
    parser.add_argument("--ema", type=float, default=0.998)
    parser.add_argument("--guidance", type=float, default=GUIDANCE, help="of the teacher")
    parser.add_argument("--adversary", type=float, default=0.0, help="weight of the critic; 0.02 is a start")
    parser.add_argument("--critic-rate", type=float, default=3e-4)
    parser.add_argument("--renew", type=int, default=8, help="draw --chunk views anew every so many steps; 0: never")
    args = parser.parse_args()
    if args.resume is None:
        parser.error("expected --resume with the weights to distil, but got none")
    train(args)


if __name__ == "__main__":
    main()
