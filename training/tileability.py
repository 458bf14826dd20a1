"""Train the tileability network: `python -m training.tileability --packs DIR --out DIR --minutes 6`.

Views are drawn on the device from periodic sources (`training.breaks`). Part of each batch of non-tiles is attacked
first: projected gradient ascent within an L-infinity ball (Madry et al., 2018), so that the score can't be raised
without mending the seam. The last sources of the training split are held out: they give the figures that are printed,
and the slope and offset that make calibrated probabilities of logits.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import random
from collections.abc import Callable
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
SIZES = (64, 512)
"""Least and largest side of views; each step draws one pair. Odd ones too: interpolation leaves its beats in tiles and
non-tiles alike."""
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

    def __init__(
        self, packs: Path, device: torch.device, *, each: int, seed: int, limit: int | None, plain: float = 0.0,
        judge: Callable[[Tensor], Tensor] | None = None,
    ) -> None:  # fmt: skip
        """`judge` says which real ones to keep: (N, 3, S, S) uint8 to (N,) bool; their labels are 90 % right."""
        self.plain = plain
        self.train: dict[int, list[Tensor]] = {}
        self.held: dict[int, list[Tensor]] = {}
        for side in SIDES:
            real = real_sources(packs, side, limit).to(device)
            if judge is not None and len(real):
                kept = judge(real)
                say(f"{int(kept.sum())} of {len(real)} real sources of {side} px are believed to tile")
                real = real[kept]
            banks = [real, procedural_sources(side, each, device, seed)]
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
        return draw(torch.cat(parts), size, generator, self.plain)


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


def profile_losses(columns: Tensor, rows: Tensor, views: Views) -> tuple[Tensor, Tensor]:
    """Of what the profiles say alone: binary cross-entropy over the axes that have a truth, and minus the log share of
    the seam's place on broken ones.

    A step of hue in the middle is a second seam, so that hue counts for the verdict alone.
    """
    verdict = _entropy(-torch.stack([columns.logsumexp(1), rows.logsumexp(1)], 1), views)
    one = (views.kinds != KINDS.index("hue"))[:, None] & (views.tiles == 0)
    places = []
    for axis, found in enumerate((columns, rows)):
        around = torch.arange(-NEAR, NEAR + 1, device=found.device)[None] + views.seams[:, axis, None]
        near = found.gather(1, around % found.shape[1])
        places.append((found.logsumexp(1) - near.logsumexp(1))[one[:, axis]])
    missed = torch.cat(places)
    return verdict, missed.mean() if len(missed) else verdict.new_zeros(())


def losses_of(net: TileNet, views: Views, parts: str) -> dict[str, Tensor]:
    """What each of the `parts`, "profiles" or "judge", loses alone, so that neither leans on the other."""
    learns = "profiles" in parts
    with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
        columns, rows = net.seams(views.images)
    losses: dict[str, Tensor] = {}
    if learns:
        losses["profiles"], missed = profile_losses(columns, rows, views)
        losses["missed"] = PLACED * missed
    if "judge" in parts:
        # half of the time it is shown where the seam is, or it would learn nothing until the profiles find it
        told = torch.rand(len(views.images), device=views.images.device) < 0.5
        worst = torch.stack([columns.argmax(1), rows.argmax(1)], 1)
        losses["judge"] = _entropy(-net.opinions(views.images, torch.where(told[:, None], views.seams, worst)), views)
    return losses


def _entropy(logits: Tensor, views: Views) -> Tensor:
    known = views.tiles >= 0
    return F.binary_cross_entropy_with_logits(logits[known], views.tiles[known])


def resume(net: TileNet, state: dict[str, Tensor]) -> None:
    """Take up earlier weights; parts they lack stay as they are. Raises RuntimeError where a shape differs."""
    missing = net.load_state_dict({name: value.float() for name, value in state.items()}, strict=False)
    say(f"resumed; {len(missing.missing_keys)} new parts, {len(missing.unexpected_keys)} dropped")


@torch.no_grad()
def believed(net: TileNet, images: Tensor, least: float) -> Tensor:
    """(N,) whether the network gives both axes of (N, 3, S, S) uint8 images a probability of at least `least`."""
    found = []
    for part in images.split(16):
        logits = net(part.float() / 255)
        found.append(torch.minimum(logits.x, logits.y).sigmoid() >= least)
    return torch.cat(found)


def drawn_size(rng: random.Random, largest: int) -> tuple[int, int]:
    """A view's (height, width), each as likely in one octave as in the next; mostly square."""
    least, most = math.log(SIZES[0]), math.log(min(SIZES[1], largest))
    size, other = (round(math.exp(rng.uniform(least, most))) for _ in range(2))
    return size, size if rng.random() < 0.7 else other


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
    judge = (lambda images: believed(net, images, args.trust)) if args.resume and args.trust else None
    sources = Sources(
        args.packs, device, each=args.each, seed=args.seed, limit=args.limit, plain=args.plain, judge=judge
    )
    say(f"sources ready in {loop.elapsed:.0f} s")
    for name, p in net.named_parameters():
        p.requires_grad_(("judge" if name.startswith("judge.") else "profiles") in args.parts)
    learners = [p for p in net.parameters() if p.requires_grad]
    sight = [p for p in net.judge.eyes.parameters() if p.requires_grad]
    rest = [p for name, p in net.named_parameters() if p.requires_grad and not name.startswith("judge.eyes.")]
    # what ImageNet taught is to be turned, not overwritten
    groups = [{"params": rest, "share": 1.0}, {"params": sight, "share": SIGHT}]
    optimiser = torch.optim.AdamW(groups, args.rate, betas=(0.9, 0.98), weight_decay=2e-2)
    loop.begin()
    while not loop.done:
        size, other = drawn_size(rng, args.largest)
        count = max(4, min(args.batch, args.batch * 192 * 192 // (size * other)))
        views = sources.draw((size, other), count, generator)
        losses = losses_of(net, views, args.parts)
        if args.attack and loop.step % 2:
            some = (views.tiles == 0).any(1).nonzero().flatten()[: max(2, count // 4)]
            if len(some):
                chosen = Views(views.images[some], views.tiles[some], views.kinds[some], views.seams[some])
                moved = replace(chosen, images=attacked(net, chosen, args.attack, generator))
                losses |= {f"attacked {name}": loss for name, loss in losses_of(net, moved, args.parts).items()}
        optimiser.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        loop.average(learners)
        nn.utils.clip_grad_norm_(learners, 1.0)
        for group in optimiser.param_groups:
            group["lr"] = loop.rate(args.rate, 100, 0.5) * group["share"]
        optimiser.step()
        average.update(net)
        loop.tick(200, **losses)
    average.copy_to(net)
    if loop.rank == 0:
        finish(net, sources, args.out, generator, args.held_batches, args.largest)


@torch.no_grad()
def finish(net: TileNet, sources: Sources, out: Path, generator: torch.Generator, batches: int, largest: int) -> None:
    """Calibrate on held-out views, print their figures by kind, save fp16 weights."""
    calibrate(net, sources, generator, batches, largest)
    state = {name: value.half().contiguous().cpu() for name, value in net.state_dict().items()}
    file = out / "tileability.safetensors"
    save_file(state, file)
    say(f"{file}: sha256 {hashlib.sha256(file.read_bytes()).hexdigest()}")


@torch.no_grad()
def calibrate(net: TileNet, sources: Sources, generator: torch.Generator, batches: int, largest: int) -> None:
    """Weigh the two opinions so that they give the probability of held-out views, and print their figures by kind."""
    net.eval()
    rng = random.Random(0)
    opinions, tiles, kinds = [], [], []
    for _ in range(batches):
        size = drawn_size(rng, largest)[0]
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


def fit(features: Tensor, truth: Tensor, share: Tensor | None = None) -> tuple[list[float], float]:
    """Weights of (N, K) features and offset of the logistic that is likeliest to have given `truth` (Platt, 1999).

    `share` (N,) is how much each one counts; None is alike.
    """
    count = features.shape[1]
    parameters = torch.cat([torch.ones(count), torch.zeros(1)]).requires_grad_(True)
    optimiser = torch.optim.LBFGS([parameters], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = F.binary_cross_entropy_with_logits(features @ parameters[:count] + parameters[count], truth, share)
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
    parser.add_argument("--largest", type=int, default=SIZES[1], help="largest side of views (%(default)s)")
    parser.add_argument(
        "--parts", choices=("profiles", "judge", "profiles+judge"), default="profiles+judge", help="what learns"
    )
    parser.add_argument("--each", type=int, default=24, help="procedural sources of each family and side")
    parser.add_argument("--plain", type=float, default=0.0, help="share of views whose colours and noise stay")
    parser.add_argument(
        "--trust", type=float, default=0.0, help="with --resume: leave out real sources it gives less than that"
    )
    parser.add_argument("--attack", type=int, default=5, help="steps of ascent on some non-tiles; 0: none")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--held-batches", type=int, default=110)
    parser.add_argument("--limit", type=int, help="use only so many real textures (for a smoke test)")
    parser.add_argument("--seed", type=int, default=1)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
