"""Train the upscaler: `python -m training.upscaler --packs DIR --lite FILE --out DIR --minutes 11`.

Pixels and features first; after a share of the time opponents join: one that is shown the small picture as well, and
heads on the features (`training.discriminator`). Without the former the finest grain becomes a lattice. Each loss's
gradient on the made pixels is brought to its share of the pixel loss's length (`Balance`), so that no weight has to be
found by trying. The features are those of an EfficientNet-Lite other than Lite0, which `benchmarks.upscale` and the
report on generators judge with.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from asd.pictures import from_tensor
from asd.texture_upscaler import NOISE, SCALE, TextureUpscaler, enlarged, extended, inside, load_file
from training.crops import Crops, Shrink, Source, Textures
from training.discriminator import Discriminator, Heads, hinges
from training.loop import Average, Loop, say
from training.models import placed
from training.perceptual import Perceptual, apart, network_of

JUDGE = "tf_efficientnet_lite0"
SHARES = {"pixels": 1.0, "again": 1.0, "features": 1.0, "described": 3.0, "opponent": 1.0, "heads": 2.0}
"""Length of each loss's gradient on the made pixels, in that of the pixels' loss."""


class Balance:
    """Factors that bring gradients to set lengths, from moving averages of the lengths that they come with."""

    def __init__(self, decay: float = 0.97) -> None:
        self.decay = decay
        self.lengths: dict[str, Tensor] = {}

    def __call__(self, gradients: dict[str, Tensor], shares: dict[str, float]) -> Tensor:
        """The sum of all, each `shares` times as long in the mean as that named "pixels"."""
        for name, gradient in gradients.items():
            length = gradient.norm()
            before = self.lengths.get(name, length)
            self.lengths[name] = torch.where(length.isfinite(), before.lerp(length, 1 - self.decay), before)
        unit = self.lengths["pixels"]
        total = torch.zeros_like(gradients["pixels"])
        for name, gradient in gradients.items():
            total += gradient * (shares[name] * unit / self.lengths[name].clamp_min(1e-12))
        return total


class Trainer:
    """The upscaler, its opponent and their losses on one device."""

    def __init__(self, args: argparse.Namespace, loop: Loop) -> None:
        self.loop, self.device = loop, loop.device
        config = {"channels": args.channels, "blocks": args.blocks, "attend_after": min(3, args.blocks - 1)}
        self.model = load_file(args.resume).train() if args.resume else TextureUpscaler(**config)
        placed(self.model, self.device)
        self.opponent = placed(Discriminator(args.opponent_width), self.device)
        self.average = Average(self.model, 0.999)
        self.judges = [placed(Perceptual(file), self.device) for file in args.lite]
        with torch.no_grad():
            told = [judge.features(torch.zeros(1, 3, 64, 64, device=self.device)) for judge in self.judges]
        self.heads = placed(nn.ModuleList(Heads([f.shape[1] for f in each]) for each in told), self.device)
        self.opponents = nn.ModuleList([self.opponent, self.heads])
        for network in (self.model, self.opponents):
            loop.synchronise(network)
        self.shares = {**SHARES, **args.shares}
        self.shrink = Shrink(args.size, self.device)
        self.balance = Balance()
        fused = self.device.type == "cuda"
        options = {"weight_decay": 0.0, "fused": fused}
        self.optimiser = torch.optim.AdamW(self.model.parameters(), args.rate, betas=(0.9, 0.99), **options)
        self.other = torch.optim.AdamW(self.opponents.parameters(), args.opponent_rate, betas=(0.5, 0.99), **options)
        self.args = args
        if args.compile:
            torch._dynamo.config.cache_size_limit = 256
            for block in self.model.body:
                block.compile(dynamic=False)

    def half(self) -> torch.autocast:
        """Half precision where it is faster, which it isn't on a CPU."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    def cells(self, low: Tensor, crops: Crops) -> Tensor:
        """Small pictures with noise and a margin around, which wraps where their crops do."""
        cells = torch.cat([low, torch.randn_like(low[:, :NOISE])], 1)
        for axis, wraps in ((2, crops.wrap_y), (3, crops.wrap_x)):
            ways = [extended_axis(cells, axis, self.args.margin, wrap=wrap) for wrap in (True, False)]
            cells = torch.where(wraps, *ways)
        return cells.contiguous(memory_format=torch.channels_last)

    def step(self, crops: Crops, against: bool) -> dict[str, Tensor]:
        """One step of the upscaler, and of its opponent if it is there; the losses."""
        low = self.shrink(crops)
        cells = self.cells(low, crops)
        with self.half():
            made = self.model.train_forward(cells, self.args.margin)
        cubic = inside(enlarged(cells[:, :3]), self.args.margin * SCALE)
        true, fake = crops.true, made.detach().float().requires_grad_()
        losses = {"pixels": F.l1_loss(fake, true)}
        losses["again"] = F.l1_loss(self.shrink.clean(fake, crops), self.shrink.clean(true, crops))
        shares = dict(self.shares)
        features: list[tuple[list[Tensor], list[Tensor]]] = []
        if self.judges:
            features = self._features(fake, true)
            told = [apart(*pair) for pair in features]
            losses["features"], losses["described"] = (torch.stack(each).sum() for each in zip(*told, strict=True))
        if against:
            grown = min(1.0, (self.loop.fraction - self.args.alone) / 0.05 + 0.1)
            shares |= {name: shares[name] * grown for name in ("opponent", "heads")}
            self.opponents.requires_grad_(False)
            with self.half():
                with torch.no_grad():
                    theirs = self.opponent(true, cubic)
                ours = self.opponent(fake, cubic)
            losses["opponent"] = F.softplus(theirs.float() - ours.float()).mean()
            if features:
                losses["heads"] = -torch.stack([s.mean() for s in self._scores([made for made, _ in features])]).mean()
        shared = {"features", "described", "heads"}  # one graph
        gradients = {
            name: torch.autograd.grad(loss, fake, retain_graph=name in shared)[0] for name, loss in losses.items()
        }
        self.optimiser.zero_grad(set_to_none=True)
        made.backward(self.balance(gradients, shares).to(made.dtype))
        self._descend(self.optimiser, self.model, self.args.rate, 100)
        self.average.update(self.model)
        if against:
            losses |= self._train_opponents(true, fake.detach(), cubic, features)
        return losses

    def _features(self, fake: Tensor, true: Tensor) -> list[tuple[list[Tensor], list[Tensor]]]:
        """Each judge's, of what is made and of the truth, both made a little smaller, by another factor each time, so
        that no one scale is learned for."""
        side = int(torch.randint(6, 9, ())) * fake.shape[-1] // 8
        made, real = (
            F.interpolate(x * 2 - 1, (side, side), mode="bilinear", antialias=True).contiguous(
                memory_format=torch.channels_last
            )
            for x in (fake, true)
        )
        found = []
        for judge in self.judges:
            with self.half():
                with torch.no_grad():
                    targets = judge.features(real)
                found.append((judge.features(made), targets))
        return found

    def _scores(self, features: list[list[Tensor]]) -> list[Tensor]:
        with self.half():
            return [s.float() for heads, each in zip(self.heads, features, strict=True) for s in heads(each)]

    def _train_opponents(
        self, true: Tensor, fake: Tensor, cubic: Tensor, features: list[tuple[list[Tensor], list[Tensor]]]
    ) -> dict[str, Tensor]:
        """Relativistic: every true pixel against the made one in its place (Jolicoeur-Martineau 2018); a hinge for
        features."""
        self.opponents.requires_grad_(True)
        with self.half():
            theirs, ours = self.opponent(torch.cat([true, fake]), torch.cat([cubic, cubic])).float().chunk(2)
        losses = {"caught": F.softplus(ours - theirs).mean() + 1e-3 * (theirs.square() + ours.square()).mean()}
        if features:
            fakes = self._scores([[f.detach() for f in made] for made, _ in features])
            trues = self._scores([real for _, real in features])
            losses["told"] = hinges(fakes, trues).mean()
        self.other.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        self._descend(self.other, self.opponents, self.args.opponent_rate, 1)
        return losses

    def _descend(self, optimiser: torch.optim.Optimizer, network: nn.Module, rate: float, warmup: int) -> None:
        parameters = [p for p in network.parameters() if p.grad is not None]
        self.loop.average(parameters)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in optimiser.param_groups:
            group["lr"] = self.loop.rate(rate, warmup, 0.6)
        optimiser.step()


def extended_axis(x: Tensor, axis: int, margin: int, *, wrap: bool) -> Tensor:
    """(N, C, H, W) with `margin` more cells on both ends of one axis."""
    turned = x if axis == 3 else x.transpose(2, 3)
    made = extended(turned, margin, wrap_x=wrap, wrap_y=False)[..., margin:-margin, :]
    return made if axis == 3 else made.transpose(2, 3)


def save(trainer: Trainer, out: Path) -> None:
    """Write the averaged network: upscaler.safetensors with its config inside, and a diffusers folder, both fp16."""
    config = {k: v for k, v in trainer.model.config.items() if not k.startswith("_")}
    plain = TextureUpscaler(**config)
    trainer.average.copy_to(placed(plain, trainer.device))
    plain = plain.cpu().half()
    file = out / "upscaler.safetensors"
    told = {"config": json.dumps(config), "features": " ".join(map(network_of, trainer.args.lite)) or "none"}
    save_file({k: v.contiguous() for k, v in plain.state_dict().items()}, out / "upscaler.tmp", told)
    (out / "upscaler.tmp").replace(file)
    plain.save_pretrained(out / "upscaler")


@torch.no_grad()
def draw_sheet(out: Path, shown: Crops, shrink: Shrink) -> None:
    """sheet.jpg of the saved file: rows of the small picture, a bicubic, what the network makes, the truth."""
    model = placed(load_file(out / "upscaler.safetensors"), shown.true.device)
    low = shrink.clean(shown.true, shown).clamp(0, 1)
    rows = []
    for k in range(len(low)):
        axes = ("x" if shown.wrap_x[k] else "") + ("y" if shown.wrap_y[k] else "") or "none"
        noise = torch.randn(low[k : k + 1, :NOISE].shape, generator=torch.Generator().manual_seed(k)).to(low.device)
        made = model(low[k : k + 1], noise, axes)
        blocky = F.interpolate(low[k : k + 1], scale_factor=SCALE)
        rows.append(torch.cat([blocky, enlarged(low[k : k + 1]), made, shown.true[k : k + 1]], 3).clamp(0, 1))
    picture: Image.Image = from_tensor(torch.cat(rows, 2) * 2 - 1, "pil")[0]
    picture.save(out / "sheet.jpg", quality=92)


def train(args: argparse.Namespace) -> None:
    loop = Loop(args.minutes, args.out / "upscaler.jsonl", args.max_steps)
    if args.device:
        loop.device = torch.device(args.device)
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed + loop.rank)
    torch.backends.cudnn.benchmark = True
    textures = Textures(args.packs, "train", loop.device, args.limit)
    say(f"{len(textures)} textures in {loop.elapsed:.0f} s")
    trainer = Trainer(args, loop)
    options = {"size": args.size, "procedural": args.procedural}
    source = Source(textures, loop.device, pool=args.pool, seed=args.seed * 1000 + loop.rank, **options)
    source.fill()
    held = Source(Textures(args.packs, "val", loop.device, 96), loop.device, pool=args.shown, seed=7, **options)
    held.fill()
    shown = Crops(held.real.pixels.float() / 255, *held.real.wraps[:, :, None, None].split(1, 1))
    say(f"pools filled in {loop.elapsed:.0f} s")
    keep = every(args.save_minutes * 60)
    loop.begin()
    while not loop.done:
        losses = trainer.step(source.draw(args.batch), loop.fraction >= args.alone)
        loop.tick(200, **losses)
        if loop.rank == 0 and keep():
            save(trainer, args.out)
            draw_sheet(args.out, shown, trainer.shrink)
    if loop.rank == 0:
        save(trainer, args.out)
        draw_sheet(args.out, shown, trainer.shrink)
        say(f"{args.out / 'upscaler.safetensors'}: {loop.step} steps")


def shares_of(text: str) -> dict[str, float]:
    """
    >>> shares_of("heads=4,opponent=0")
    {'heads': 4.0, 'opponent': 0.0}
    """
    made = dict[str, float]()
    for part in text.split(","):
        name, _, share = part.partition("=")
        if name not in SHARES:
            raise argparse.ArgumentTypeError(f"Expected shares of {', '.join(SHARES)}, but got {part!r}.")
        made[name] = float(share)
    return made


def every(seconds: float) -> Callable[[], bool]:
    """Whether it is time again."""
    last = time.monotonic()

    def due() -> bool:
        nonlocal last
        if time.monotonic() - last < seconds:
            return False
        last = time.monotonic()
        return True

    return due


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packs", type=Path, required=True)
    parser.add_argument(
        "--lite", type=Path, nargs="+", default=[], metavar="FILE",
        help="EfficientNet-Lite1, 2, … by training.perceptual.convert; not Lite0",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", type=Path, help="safetensors file to start from")
    parser.add_argument("--minutes", type=float, default=11.0)
    parser.add_argument("--max-steps", type=int)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=256, help="side of the true crops, a multiple of 32")
    parser.add_argument("--pool", type=int, default=4096, help="crops of textures kept, and half as many procedural")
    parser.add_argument("--procedural", type=float, default=0.2, help="share of procedural crops")
    parser.add_argument("--margin", type=int, default=8, help="cells around the small pictures, at least 3")
    parser.add_argument("--channels", type=int, default=96)
    parser.add_argument("--blocks", type=int, default=16)
    parser.add_argument("--opponent-width", type=int, default=64)
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--opponent-rate", type=float, default=2e-4)
    parser.add_argument(
        "--shares", type=shares_of, default={}, metavar="NAME=SHARE,…", help=f"of gradients, where not {SHARES}"
    )
    parser.add_argument("--alone", type=float, default=0.2, help="share of the time before the opponent joins")
    parser.add_argument("--save-minutes", type=float, default=3.0)
    parser.add_argument("--shown", type=int, default=8, help="validation crops on the sheet")
    parser.add_argument("--limit", type=int, help="use only so many textures (for a smoke test)")
    parser.add_argument("--device", help="torch device; the first GPU by default, else the CPU")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=torch.cuda.is_available())
    args = parser.parse_args()
    for file in args.lite:
        if network_of(file) == JUDGE:
            print(
                f"training.upscaler: Expected EfficientNet-Lites that the benchmark does not judge with, but got "
                f"{JUDGE} in {file} (training/README.md says how to make those of others).", file=sys.stderr,
            )  # fmt: skip
            raise SystemExit(2)
    train(args)


if __name__ == "__main__":
    main()
