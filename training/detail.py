"""Train the network that draws fine detail: `python -m training.detail` and the options below.

What the shipped autoencoder decodes, of real textures and of the U-Net's own samples for the same captions, is brought
to look like real textures by critics: heads on features of frozen ImageNet networks (Sauer et al. 2021, "Projected
GANs") and one on pixels, and by the distance of feature statistics to those of all real views (Li et al. 2015,
"Generative Moment Matching Networks"; kernel of KID, Bińkowski et al. 2018). `generator_report.py` measures with
EfficientNet-Lite0: give Lite1 and Lite2 here, so that it stays a check; `--check` prints its distance as training goes.
"""

from __future__ import annotations

import argparse
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from materials.defaults import STEPS
from materials.detail import Detailer
from materials.grain import add_detail as add_statistical
from training.bank import Bank, Encoder, batched
from training.diffusion import SQUARE, Text, load_networks
from training.discriminator import Heads, hinges
from training.distill import load_unet
from training.loop import Average, Loop, say
from training.models import placed
from training.paths import few_steps, path
from training.perceptual import Perceptual, described
from training.publish import new_scheduler
from training.views import RealTextures
from training.wrap import set_wrap, wrap_convolutions

POOL = 8
"""Texels along a side over which the detail's mean is held at 0: colours and layout stay."""
RECENT = 2048
"""Pictures of earlier steps whose statistics stand for all that are made."""


class Pixels(nn.Module):
    """The same on the picture itself, what frozen features may have thrown away: patches of 46 texels."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = [spectral_norm(nn.Conv2d(12, width, 3, padding=1)), nn.LeakyReLU(0.2)]
        for a, b in pairwise((width, 2 * width, 4 * width)):
            layers += [spectral_norm(nn.Conv2d(a, b, 4, 2, 1)), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, spectral_norm(nn.Conv2d(4 * width, 1, 3, padding=1)))

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.layers(F.pixel_unshuffle(x, 2)).flatten(1)]


def kernel(a: Tensor, b: Tensor) -> Tensor:
    """KID's: a cubic of the scalar product of five stages of unit length."""
    return (a @ b.T / 5 + 1) ** 3


def distance(made: Tensor, real: Tensor, recent: Tensor | None = None) -> Tensor:
    """Squared maximum mean discrepancy from `made` to `real`; with `recent` for other made ones, without real's."""
    if recent is not None:
        return 2 * (kernel(made, recent).mean() - kernel(made, real).mean())
    own = kernel(made, made)
    n = len(made)
    others = kernel(real[:4000], real[-4000:]).mean()
    return (own.sum() - own.diagonal().sum()) / (n * (n - 1)) + others - 2 * kernel(made, real).mean()


@torch.no_grad()
def sampled(unet: nn.Module, batch: Bank, empty: Text, scheduler: Any, *, few: bool) -> Tensor:
    """Latents of the batch's captions as the pipeline makes them, or as a four-step student does."""
    x = torch.randn(batch.z.shape, device=batch.z.device)
    return few_steps(unet, x, batch, empty) if few else path(unet, x, batch, empty, scheduler, STEPS)[-1]


class Pictures:
    """Real views, the same decoded, samples of their captions: (M, 3, 256, 256), [-1, 1]; (M,) whether they wrap."""

    def __init__(self, real: Tensor, decoded: Tensor, samples: Tensor, wrap_x: Tensor, wrap_y: Tensor) -> None:
        self.real, self.decoded, self.samples, self.wrap_x, self.wrap_y = real, decoded, samples, wrap_x, wrap_y

    def __len__(self) -> int:
        return len(self.real)


@torch.no_grad()
def pictures(
    encoder: Encoder,
    textures: RealTextures,
    rng: random.Random,
    count: int,
    empty: Text,
    scheduler: Any,
    networks: list[tuple[nn.Module, bool]],
    chunk: int = 64,
) -> Pictures:
    """`count` views; each batch's samples are by the next of `networks`."""
    parts: list[tuple[Tensor, ...]] = []
    half = torch.float16 if encoder.device.type == "cuda" else torch.float32
    vae: Any = encoder.vae

    def decoded(z: Tensor) -> Tensor:
        with torch.autocast(encoder.device.type, torch.bfloat16, enabled=False):
            return vae.decoder(z.float() / encoder.scaling + encoder.shift)[:, :3].clamp(-1, 1).to(half)

    for i, views in enumerate(batched(lambda: [textures.draw(rng, *SQUARE, whole=0.8)], count, chunk)):
        bank = encoder(views, 1.0)
        unet, few = networks[i % len(networks)]
        z = sampled(unet, bank, empty, scheduler, few=few)
        set_wrap(bank.wrap_x, bank.wrap_y)
        real = torch.stack([v.maps[:3] for v in views]).to(half)
        parts.append((real, decoded(bank.z), decoded(z), bank.wrap_x, bank.wrap_y))
    return Pictures(*(torch.cat(each) for each in zip(*parts, strict=True)))


def turned(x: Tensor, way: int) -> Tensor:
    """One of eight orientations: critics with few real pictures learn them by heart otherwise."""
    x = x.flip(-1) if way & 1 else x
    return torch.rot90(x, way >> 1, (-2, -1))


class Judge:
    """The frozen networks: features of pictures, and the statistics of all real ones."""

    def __init__(self, files: list[Path], device: torch.device) -> None:
        self.nets = [placed(Perceptual(f), device) for f in files]
        self.real: list[Tensor] = []

    def features(self, x: Tensor) -> list[list[Tensor]]:
        return [net.features(x) for net in self.nets]

    @torch.no_grad()
    def statistics(self, x: Tensor) -> list[Tensor]:
        """(M, C) for each network, of (M, 3, H, W)."""
        device = next(self.nets[0].parameters()).device
        rows = [[described(f) for f in self.features(part.to(device).float())] for part in x.split(64)]
        return [torch.cat(each) for each in zip(*rows, strict=True)]


def train(args: argparse.Namespace) -> None:
    loop = Loop(args.minutes, args.out / "detail.jsonl", args.max_steps)
    device = loop.device
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    rng = random.Random(args.seed)
    encoder, empty = load_networks(args.vae, args.text, device)
    scheduler = new_scheduler()
    networks: list[tuple[nn.Module, bool]] = []
    for file, few in ((args.unet, False), (args.student, True)):
        if file is not None:
            networks.append((load_unet(file, args.channels, device).eval().requires_grad_(False), few))
    textures = RealTextures(args.packs, "train", device, limit=args.limit)
    seen = pictures(encoder, textures, rng, args.views, empty, scheduler, networks, args.chunk)
    say(f"{len(seen)} views made after {loop.elapsed:.0f} s")
    held = RealTextures(args.packs, "val", device, limit=args.limit)
    unseen = pictures(encoder, held, random.Random(0), args.held, empty, scheduler, networks, args.chunk)

    judge = Judge(args.lite, device)
    check = Judge([args.check], device) if args.check else None
    targets = judge.statistics(seen.real)
    checked = check.statistics(seen.real)[0] if check else None
    say(f"their statistics after {loop.elapsed:.0f} s")

    model = Detailer()
    if args.resume:
        model.load_state_dict({k: v.float() for k, v in load_file(args.resume).items()})
    else:
        nn.init.zeros_(model.leave.weight)
        assert model.leave.bias is not None
        nn.init.zeros_(model.leave.bias)
    placed(wrap_convolutions(model), device)
    average = Average(model, args.ema)
    with torch.no_grad():
        widths = [[f.shape[1] for f in each] for each in judge.features(torch.zeros(1, 3, 64, 64, device=device))]
    critics = nn.ModuleList([*(Heads(w) for w in widths), Pixels()]).to(device)
    fused = device.type == "cuda"
    optimiser = torch.optim.AdamW(model.parameters(), args.rate, betas=(0.0, 0.99), weight_decay=0.0, fused=fused)
    theirs = torch.optim.AdamW(critics.parameters(), args.critic_rate, betas=(0.0, 0.99), weight_decay=0.0, fused=fused)
    recent = [torch.empty(0, t.shape[1], device=device) for t in targets]

    def scores(x: Tensor, features: list[list[Tensor]]) -> list[Tensor]:
        given = [*features, x]
        return [score for critic, each in zip(critics, given, strict=True) for score in critic(each)]

    loop.begin()
    next_look = args.look_every * 60.0
    while not loop.done:
        half = args.batch // 2
        index = torch.randint(len(seen), (args.batch,), device=device)
        decoded = torch.cat([seen.decoded[index[:half]], seen.samples[index[half:]]]).float()
        set_wrap(seen.wrap_x[index], seen.wrap_y[index])
        noise = torch.randn(args.batch, 1, *decoded.shape[-2:], device=device)
        with torch.autocast(device.type, torch.bfloat16):
            added = model(decoded, noise).float()
        made = decoded + added
        way = rng.randrange(8)
        made_features = judge.features(turned(made, way))
        critics.requires_grad_(False)
        fooled = -torch.stack([s.mean() for s in scores(turned(made, way), made_features)]).mean()
        critics.requires_grad_(True)
        described_made = [described(f) for f in made_features]
        known = zip(described_made, targets, recent, strict=True)
        apart = torch.stack([distance(m, t, r if len(r) else m.detach()) for m, t, r in known]).mean()
        paired = seen.real[index[:half]].float()
        # the half that has a truth keeps to it where a latent tells
        like = F.l1_loss(F.avg_pool2d(made[:half], 4), F.avg_pool2d(paired, 4))
        wide = F.avg_pool2d(added, POOL).abs().mean()
        over = (made.abs() - 1).relu().mean()
        losses = {"fooled": fooled, "apart": apart, "like": like, "wide": wide, "over": over}
        weights = {
            "fooled": args.adversary, "apart": args.moments, "like": args.like, "wide": args.wide, "over": 10.0,
        }  # fmt: skip
        total = torch.stack([weights[k] * v for k, v in losses.items()]).sum()
        optimiser.zero_grad(set_to_none=True)
        total.backward()
        loop.average(model.parameters())
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        for group in optimiser.param_groups:
            group["lr"] = loop.rate(args.rate, args.warmup, 0.6)
        optimiser.step()
        average.update(model)
        recent = [torch.cat([m.detach(), r])[:RECENT] for m, r in zip(described_made, recent, strict=True)]

        other = seen.real[torch.randint(len(seen), (args.batch,), device=device)].float()
        fake, true = turned(made.detach(), way), turned(other, way)
        fake_features = [[f.detach() for f in each] for each in made_features]
        with torch.no_grad():
            true_features = judge.features(true)
        theirs.zero_grad(set_to_none=True)
        fakes, trues = scores(fake, fake_features), scores(true, true_features)
        against = hinges(fakes, trues)
        against.mean().backward()
        for group in theirs.param_groups:
            group["lr"] = loop.rate(args.critic_rate, args.warmup, 0.6)
        theirs.step()
        loop.tick(200, grad=norm, critics=against.mean(), pixels=against[-1], size=added.abs().mean(), **losses)
        if loop.elapsed > next_look and not loop.done:
            next_look += args.look_every * 60
            keep(model, average, unseen, check, checked, args, loop.step)
    keep(model, average, unseen, check, checked, args, loop.step)


@torch.no_grad()
def keep(
    model: nn.Module,
    average: Average,
    unseen: Pictures,
    check: Judge | None,
    real: Tensor | None,
    args: argparse.Namespace,
    step: int,
) -> None:
    """Measure and draw held-out views with the averaged weights, and save those in half precision."""
    from PIL import Image

    with average.applied(model):
        generator = torch.Generator(unseen.real.device).manual_seed(0)
        made: dict[str, Tensor] = {}
        for name, x in (("decoded", unseen.decoded), ("samples", unseen.samples)):
            parts = []
            for index in torch.arange(len(x), device=x.device).split(64):
                set_wrap(unseen.wrap_x[index], unseen.wrap_y[index])
                given = x[index].float()
                noise = torch.randn(len(given), 1, *given.shape[-2:], generator=generator, device=x.device)
                parts.append((given + model(given, noise)).clamp(-1, 1))
            made[name] = torch.cat(parts)
        if check is not None and real is not None:
            wanted = check.statistics(unseen.real)[0]
            found = {k: 1000 * float(distance(check.statistics(v)[0], wanted)) for k, v in made.items()}
            found["samples as decoded"] = 1000 * float(distance(check.statistics(unseen.samples)[0], wanted))
            found["real"] = 1000 * float(distance(wanted, real))
            say(f"step {step}: distance of the check network { ({k: round(v, 1) for k, v in found.items()}) }")
        state = {k: v.detach().half().contiguous().cpu() for k, v in model.state_dict().items()}
        temporary = args.out / "detail.safetensors.tmp"
        save_file(state, temporary)
        temporary.replace(args.out / "detail.safetensors")
        rows = []
        for i in range(min(8, len(unseen))):
            before = unseen.samples[i].float().cpu()
            statistical = add_statistical(before / 2 + 0.5, i, wrap_x=False, wrap_y=False) * 2 - 1
            pair = (unseen.real[i].float().cpu(), made["decoded"][i].cpu())
            rows.append(torch.cat([*pair, before, statistical, made["samples"][i].cpu()], -1))
        sheet = ((torch.cat(rows, -2).clamp(-1, 1) + 1) * 127.5).round().byte()
        Image.fromarray(sheet.permute(1, 2, 0).numpy()).save(args.out / "detail.jpg", quality=92)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packs", type=Path, required=True)
    parser.add_argument("--vae", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True, help="folder with MiniLM-L6 and its tokenizer")
    parser.add_argument("--unet", type=Path, help="weights whose samples are to look real")
    parser.add_argument("--student", type=Path, help="the same of a four-step U-Net by training.distill")
    parser.add_argument("--lite", type=Path, nargs="+", required=True, help="networks by training.perceptual.convert")
    parser.add_argument("--check", type=Path, help="another, to measure by alone")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--max-steps", type=int)
    parser.add_argument("--views", type=int, default=16384)
    parser.add_argument("--held", type=int, default=512)
    parser.add_argument("--chunk", type=int, default=128)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--channels", type=int, nargs=3, default=(128, 256, 352))
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--critic-rate", type=float, default=5e-4)
    parser.add_argument("--warmup", type=int, default=100)
    parser.add_argument("--ema", type=float, default=0.998)
    parser.add_argument("--adversary", type=float, default=0.5)
    parser.add_argument("--moments", type=float, default=4.0)
    parser.add_argument("--like", type=float, default=3.0)
    parser.add_argument("--wide", type=float, default=30.0)
    parser.add_argument("--look-every", type=float, default=2.0, help="minutes")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.unet is None and args.student is None:
        parser.error("expected --unet or --student, but got neither")
    train(args)


if __name__ == "__main__":
    main()
