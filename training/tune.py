"""The last per cent of an autoencoder on a CPU: `python -m training.tune --vae DIR --packs DIR --out DIR --minutes 30`.

First the encoder's last stage, at an eighth of the size, is trained by the squared errors that the benchmark takes the
root of: every procedural family as often as any other, all maps shown, beside real textures. Nothing else moves, so a
U-Net trained on the latents still fits. Then the row of the decoder's last layer that makes the height is solved for:
with all else as it is the height is linear in it, and the best row has a closed form.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asd.seamless import Seamless
from materials.material import MISSING
from materials.procedural import FAMILIES, sample
from training.loop import Loop, say
from training.models import AutoencoderTiny
from training.views import RealTextures

SIDE, CROP = 256, 128
HEIGHT = 5
WEIGHTS = (1.0, 1.0, 1.0, 1.5, 1.5, 3.0, 1.5, 1.5)
"""Of each channel's squared error."""
TAIL = 12
"""The encoder's first layer after its last halving."""


def material(family: str, rng: random.Random) -> Tensor:
    """(1, 8, 256, 256): maps of a new one."""
    return sample(family, [rng.randrange(2**40)], (SIDE, SIDE)).network()


def crops(family: str, rng: random.Random) -> Tensor:
    """(4, 8, 128, 128): the corners of a material, which is rolled at random first."""
    maps = material(family, rng).roll((rng.randrange(SIDE), rng.randrange(SIDE)), (2, 3))
    return torch.cat([maps[..., y : y + CROP, x : x + CROP] for y in (0, CROP) for x in (0, CROP)])


def batch(real: RealTextures, families: list[str], rng: random.Random) -> tuple[Tensor, Tensor, Tensor]:
    """What the encoder is given, the truth, and (N, 8) where there is one: 12 procedural crops and 4 real ones."""
    drawn = [crops(family, rng) for family in rng.sample(families, 3)]
    views = [real.draw(rng, CROP, CROP, whole=0.3) for _ in range(4)]
    maps = torch.cat([*drawn, torch.stack([view.maps for view in views])])
    known = torch.cat([torch.ones(12, 8), torch.stack([view.known for view in views])])
    shown = known.clone()
    bare = torch.rand(len(maps)) < 0.2  # a photo alone
    shown[bare, 3:] = 0
    return torch.where(shown[..., None, None] > 0, maps, MISSING), maps, known * (1 - 0.7 * bare[:, None].float())


def train_tail(vae: Any, packs: Path, minutes: float, rate: float, seed: int, log: Path, limit: int | None) -> None:
    """Train the encoder's last stage, in place."""
    loop, rng = Loop(minutes, log), random.Random(seed)
    torch.manual_seed(seed)
    vae.requires_grad_(False)
    head, tail = vae.encoder.layers[:TAIL], vae.encoder.layers[TAIL:]
    parameters = list(tail.requires_grad_(True).parameters())
    optimiser = torch.optim.AdamW(parameters, rate, betas=(0.9, 0.99), weight_decay=0.0)
    real = RealTextures(packs, "train", torch.device("cpu"), limit=limit)
    say(f"{len(real)} real textures in {loop.elapsed:.0f} s")
    weights = torch.tensor(WEIGHTS)
    loop.begin()
    while not loop.done:
        given, maps, known = batch(real, sorted(FAMILIES), rng)
        with torch.no_grad():
            z = head((given.contiguous(memory_format=torch.channels_last) + 1) / 2)  # as diffusers' encoder begins
        error = (vae.decoder(tail(z)) - maps).square().mean((2, 3)) * known
        total = (error * weights).sum() / known.sum()
        optimiser.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(parameters, 0.1)
        for group in optimiser.param_groups:
            group["lr"] = loop.rate(rate, 20, 0.3)
        optimiser.step()
        loop.average(parameters)
        loop.tick(20, total=total, height=error[:12, HEIGHT].mean(), basecolor=error[:, :3].mean())


@torch.no_grad()
def solve_height(vae: Any, materials: int, seed: int, ridge: float = 1e-4) -> tuple[float, float]:
    """Replace the height's row of the decoder's last layer by the best for so many materials of each family.

    Returns the root of the mean squared error of their heights, in [0, 1], before and after.
    """
    last: nn.Conv2d = vae.decoder.layers[-1]
    rng, size = random.Random(seed), last.in_channels * 9 + 1
    gram, right = torch.zeros(size, size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
    square, texels, draws = 0.0, 0, torch.Generator().manual_seed(seed)
    held: list[Tensor] = []

    def hold(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        held[:] = inputs

    hook = last.register_forward_pre_hook(hold)
    with Seamless(vae, "xy"):
        for family in sorted(FAMILIES):
            for _ in range(materials):
                maps = material(family, rng)
                vae.decoder(vae.encoder(maps))
                places = torch.randperm(SIDE * SIDE, generator=draws)[: SIDE * SIDE // 3]
                columns = F.unfold(F.pad(held[0], (1, 1, 1, 1), mode="circular"), 3)[0].T[places]
                columns = torch.cat([columns, torch.ones(len(places), 1)], 1)
                wanted = (maps[0, HEIGHT].flatten()[places] + 1) / 2  # the decoder ends in 2 x - 1
                gram += (columns.T @ columns).double()
                right += (columns.T @ wanted).double()
                square += float(wanted.double().square().sum())
                texels += len(places)
    hook.remove()
    before = torch.cat([last.weight[HEIGHT].flatten(), last.bias[HEIGHT, None]]).double()  # pyright: ignore[reportOptionalSubscript] - it has one
    # kept near where it was, in proportion to what each input does
    pull = ridge * gram.diagonal().mean() * torch.eye(size, dtype=torch.float64)
    after = torch.linalg.solve(gram + pull, right + pull @ before)
    last.weight[HEIGHT] = after[:-1].view(last.weight[HEIGHT].shape).float()
    last.bias[HEIGHT] = after[-1].float()  # pyright: ignore[reportOptionalSubscript] - as above

    def root(row: Tensor) -> float:
        return float((row @ gram @ row - 2 * row @ right + square).clamp_min(0) / texels) ** 0.5

    return root(before), root(after)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vae", type=Path, required=True, help="diffusers folder to go on from")
    parser.add_argument("--packs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for vae/ and tune.jsonl")
    parser.add_argument("--minutes", type=float, default=30.0, help="for the encoder's last stage; 0 leaves it")
    parser.add_argument("--materials", type=int, default=4, help="of each family for the height's row; 0 leaves it")
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--limit", type=int, help="use only so many real textures")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    vae: Any = AutoencoderTiny.from_pretrained(args.vae).float()
    if args.minutes:
        train_tail(vae, args.packs, args.minutes, args.rate, args.seed, args.out / "tune.jsonl", args.limit)
    if args.materials:
        before, after = solve_height(vae, args.materials, args.seed + 1)
        say(f"height of {args.materials} materials of each family: {before:.5f} to {after:.5f}")
    config = (args.vae / "config.json").read_text()
    vae.half().save_pretrained(args.out / "vae")
    (args.out / "vae" / "config.json").write_text(config)  # diffusers adds where it was loaded from


if __name__ == "__main__":
    main()
