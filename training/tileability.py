"""Train the tileability network: `python -m training.tileability --packs DIR --out DIR --minutes 6`.

Views are drawn on the device from periodic sources (`training.breaks`). Part of each batch of non-tiles is attacked
first: projected gradient ascent within an L-infinity ball (Madry et al., 2018), so that the score can't be raised
without mending the seam. The last sources of the training split are held out: they give the figures that are printed,
and the slope and offset that make calibrated probabilities of logits.
"""

from __future__ import annotations

import argparse
import hashlib
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from materials.procedural import FAMILIES, sample
from textile_metric.network import TileNet
from training.breaks import KINDS, Views, draw
from training.curve import auc
from training.images import resize
from training.loop import Average, Loop, say
from training.pack import Pack

SIDES = (256, 512)
"""Sides of the sources kept on the device."""
SIZES = (64, 96, 128, 128, 192, 192, 256, 256, 320, 384, 512)
"""Sides of views; each step draws one pair."""
HELD_OUT = 0.1
BALL = 8 / 255
NEAR = 1
"""Columns by which a seam may be found beside its place."""
SIGHT = 0.2
"""The pretrained layers' learning rate, in that of the rest."""
PLACED = 0.1
"""Weight of finding the seam in its place, beside the verdict."""


def real_sources(packs: Path, side: int, limit: int | None = None) -> Tensor:
    """(N, 3, side, side) uint8: the training split's textures that tile on both axes and are at least that large.

    In the order of the pack, where near-duplicates are neighbours: the last ones make a held-out part of their own.
    """
    pack = Pack(packs)
    chosen = [i for i in pack.split("train") if pack.row(i)["tiles_x"] and pack.row(i)["tiles_y"]][:limit]

    def load(i: int) -> np.ndarray | None:
        image = pack.load(i, maps=False)["basecolor"]
        if min(image.shape[:2]) < side:
            return None
        return np.clip(np.rint(resize(image, (side, side), wrap_x=True, wrap_y=True)), 0, 255).astype(np.uint8)

    with ThreadPoolExecutor(16) as pool:
        loaded = [image for image in pool.map(load, chosen) if image is not None]
    if not loaded:
        return torch.empty(0, 3, side, side, dtype=torch.uint8)
    return torch.from_numpy(np.stack(loaded)).permute(0, 3, 1, 2).contiguous()


def procedural_sources(side: int, each: int, device: torch.device, seed: int) -> Tensor:
    """(families x each, 3, side, side) uint8."""
    made = [
        (sample(family, range(seed, seed + each), (side, side), device).basecolor * 255).round().byte()
        for family in sorted(FAMILIES)
    ]
    return torch.cat(made)


class Sources:
    """Periodic sources by side, split into those to train on and those held out."""

    def __init__(self, packs: Path, device: torch.device, *, each: int, seed: int, limit: int | None) -> None:
        self.train: dict[int, list[Tensor]] = {}
        self.held: dict[int, list[Tensor]] = {}
        for side in SIDES:
            banks = [real_sources(packs, side, limit).to(device), procedural_sources(side, each, device, seed)]
            cuts = [len(bank) - round(len(bank) * HELD_OUT + 0.5) for bank in banks]
            self.train[side] = [bank[:cut] for bank, cut in zip(banks, cuts, strict=True)]
            self.held[side] = [bank[cut:] for bank, cut in zip(banks, cuts, strict=True)]

    def draw(self, size: tuple[int, int], count: int, generator: torch.Generator, *, held: bool = False) -> Views:
        """`count` views of `size`, six of ten from real textures."""
        side = SIDES[-1] if min(size) >= 192 else SIDES[0]
        banks = (self.held if held else self.train)[side]
        real = round(count * 0.6) if len(banks[0]) else 0
        counts = (real, count - real)
        parts = []
        for bank, n in zip(banks, counts, strict=True):
            chosen = torch.randint(len(bank), (n,), generator=generator, device=bank.device)
            parts.append(bank[chosen].float() / 255)
        return draw(torch.cat(parts), size, generator)


def attacked(net: TileNet, views: Views, steps: int, generator: torch.Generator) -> Tensor:
    """`views` moved within `BALL` so that their broken axes score as high as ascent gets them; in [0, 1]."""
    n, device = len(views.images), views.images.device
    radius = torch.rand(n, 1, 1, 1, generator=generator, device=device) * BALL
    moved = views.images + (torch.rand(views.images.shape, generator=generator, device=device) * 2 - 1) * radius
    broken = views.tiles == 0
    for _ in range(steps):
        moved = moved.detach().clamp(0, 1).requires_grad_(True)
        logits = net(moved)
        aim = (torch.stack([logits.x, logits.y], 1) * broken).sum()
        (gradient,) = torch.autograd.grad(aim, moved)
        moved = moved.detach() + gradient.sign() * radius * (2.5 / steps)
        moved = views.images + (moved - views.images).clamp(-radius, radius)
    return moved.detach().clamp(0, 1)


def losses_of(net: TileNet, views: Views) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy over the axes that have a truth, and minus the log share of the seam's place on broken ones.

    A step of hue in the middle is a second seam, so that hue counts for the verdict alone.
    """
    # half of the time the judge is shown where the seam is, or it would learn nothing until the profiles find it
    told = torch.rand(len(views.images), device=views.images.device) < 0.5
    logits = net(views.images, torch.where(told[:, None], views.seams, -1))
    known = views.tiles >= 0
    verdict = F.binary_cross_entropy_with_logits(torch.stack([logits.x, logits.y], 1)[known], views.tiles[known])
    one = (views.kinds != KINDS.index("hue"))[:, None] & (views.tiles == 0)
    places = []
    for axis, found in enumerate((logits.columns, logits.rows)):
        around = torch.arange(-NEAR, NEAR + 1, device=found.device)[None] + views.seams[:, axis, None]
        near = found.gather(1, around % found.shape[1])
        places.append((found.logsumexp(1) - near.logsumexp(1))[one[:, axis]])
    missed = torch.cat(places)
    return verdict, missed.mean() if len(missed) else verdict.new_zeros(())


def resume(net: TileNet, state: dict[str, Tensor]) -> None:
    """Take up earlier weights; parts they lack stay as they are. Raises RuntimeError where a shape differs."""
    missing = net.load_state_dict({name: value.float() for name, value in state.items()}, strict=False)
    say(f"resumed; {len(missing.missing_keys)} new parts, {len(missing.unexpected_keys)} dropped")


def train(args: argparse.Namespace) -> None:
    loop = Loop(args.minutes, args.out / "tileability.jsonl", args.max_steps)
    device = loop.device
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed + loop.rank)
    generator = torch.Generator(device).manual_seed(args.seed * 1000 + loop.rank)
    net = TileNet()
    if args.resume:
        resume(net, load_file(args.resume))
    if args.lite0:
        sight = {k: v.float() for k, v in load_file(args.lite0).items() if k in net.judge.eyes.state_dict()}
        net.judge.eyes.load_state_dict(sight, strict=False)
    net.to(device)
    loop.synchronise(net)
    average = Average(net, 0.999)
    sources = Sources(args.packs, device, each=args.each, seed=args.seed, limit=args.limit)
    say(f"sources ready in {loop.elapsed:.0f} s")
    sight = list(net.judge.eyes.parameters())
    rest = [p for name, p in net.named_parameters() if not name.startswith("judge.eyes.")]
    # what ImageNet taught is to be turned, not overwritten
    groups = [{"params": rest, "share": 1.0}, {"params": sight, "share": SIGHT}]
    optimiser = torch.optim.AdamW(groups, args.rate, betas=(0.9, 0.98), weight_decay=2e-2)
    loop.begin()
    while not loop.done:
        size = rng.choice(SIZES)
        other = size if rng.random() < 0.7 else rng.choice(SIZES)
        count = max(4, min(args.batch, args.batch * 192 * 192 // (size * other)))
        views = sources.draw((size, other), count, generator)
        loss, missed = losses_of(net, views)
        losses = {"clean": loss, "missed": PLACED * missed}
        if args.attack and loop.step % 2:
            some = (views.tiles == 0).any(1).nonzero().flatten()[: max(2, count // 4)]
            if len(some):
                chosen = Views(views.images[some], views.tiles[some], views.kinds[some], views.seams[some])
                moved = replace(chosen, images=attacked(net, chosen, args.attack, generator))
                losses["attacked"] = losses_of(net, moved)[0]
        optimiser.zero_grad(set_to_none=True)
        sum(losses.values(), loss.new_zeros(())).backward()
        loop.average(net.parameters())
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        for group in optimiser.param_groups:
            group["lr"] = loop.rate(args.rate, 100, 0.5) * group["share"]
        optimiser.step()
        average.update(net)
        loop.tick(200, **losses)
    average.copy_to(net)
    if loop.rank == 0:
        finish(net, sources, args.out, generator, batches=args.held_batches)


@torch.no_grad()
def finish(net: TileNet, sources: Sources, out: Path, generator: torch.Generator, batches: int) -> None:
    """Calibrate on held-out views, print their figures by kind, save fp16 weights."""
    calibrate(net, sources, generator, batches)
    state = {name: value.half().contiguous().cpu() for name, value in net.state_dict().items()}
    file = out / "tileability.safetensors"
    save_file(state, file)
    say(f"{file}: sha256 {hashlib.sha256(file.read_bytes()).hexdigest()}")


@torch.no_grad()
def calibrate(net: TileNet, sources: Sources, generator: torch.Generator, batches: int) -> None:
    """Weigh the two opinions so that they give the probability of held-out views, and print their figures by kind."""
    net.eval()
    opinions, tiles, kinds = [], [], []
    for i in range(batches):
        size = SIZES[i % len(SIZES)]
        views = sources.draw((size, size), max(8, 24 * 128 * 128 // size**2), generator, held=True)
        found = net(views.images)
        told = torch.stack([found.columns.logsumexp(1), found.rows.logsumexp(1)], 1)
        opinions.append(torch.stack([-told, -found.judged], 2).cpu())
        tiles.append(views.tiles.cpu())
        kinds.append(views.kinds.cpu()[:, None].expand(-1, 2))
    opinion, truth, kind = torch.cat(opinions), torch.cat(tiles), torch.cat(kinds)
    known = truth >= 0
    weights, offset = fit(opinion[known], truth[known])
    net.calibration.copy_(torch.tensor([offset, *weights]))
    score = opinion @ torch.tensor(weights) + offset
    good = score[known & (truth == 1)]
    bad = score[known & (truth == 0)]
    say(f"held out: AUC {auc(bad, good):.4f}, weights {weights}, offset {offset:.3f}")
    for number, name in enumerate(KINDS):
        bad = score[known & (truth == 0) & (kind == number)]
        if len(bad):
            say(f"  {name}: AUC {auc(bad, good):.4f} of {len(bad)}")


def fit(features: Tensor, truth: Tensor) -> tuple[list[float], float]:
    """Weights of (N, K) features and offset of the logistic that is likeliest to have given `truth` (Platt, 1999)."""
    count = features.shape[1]
    parameters = torch.cat([torch.ones(count), torch.zeros(1)]).requires_grad_(True)
    optimiser = torch.optim.LBFGS([parameters], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = F.binary_cross_entropy_with_logits(features @ parameters[:count] + parameters[count], truth)
        loss.backward()
        return loss

    with torch.enable_grad():
        optimiser.step(closure)
    *weights, offset = parameters.detach().tolist()
    return weights, offset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", type=Path, help="safetensors file to start from")
    parser.add_argument("--lite0", type=Path, help="EfficientNet-Lite0 under timm's names, to start the judge from")
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--max-steps", type=int)
    parser.add_argument(
        "--batch", type=int, default=48, help="views of 192x192 or smaller; larger ones come in smaller numbers"
    )
    parser.add_argument("--each", type=int, default=24, help="procedural sources of each family and side")
    parser.add_argument("--attack", type=int, default=5, help="steps of ascent on some non-tiles; 0: none")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--held-batches", type=int, default=110)
    parser.add_argument("--limit", type=int, help="use only so many real textures (for a smoke test)")
    parser.add_argument("--seed", type=int, default=1)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
