"""Train the autoencoder: `python -m training.autoencoder --packs DIR --lite0 FILE --out DIR --minutes 7`."""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from materials.material import MISSING
from materials.procedural import FAMILIES
from training.loop import Average, Loop, say
from training.models import AutoencoderTiny, new_autoencoder, placed
from training.views import Mixture, RealTextures

WEIGHTS = {"basecolor": 1.0, "chroma": 1.0, "tone": 1.0, "normal": 1.5, "height": 2.0, "gradient": 2.0, "scalars": 1.5}
WEIGHTS["moved"] = 0.3
"""Of each loss. "moved": how far latents are from those of the autoencoder gone on from, with --same-latents."""


def reconstruction(fake: Tensor, real: Tensor, known: Tensor) -> dict[str, Tensor]:
    """Losses of (N, 8, H, W) maps in [-1, 1]; `known` (N, 8) weighs channels, 0 where there is no truth."""

    def mean(x: Tensor, channels: slice) -> Tensor:
        mask = known[:, channels, None, None]
        return (x * mask).sum() / (mask.sum() * x.shape[-1] * x.shape[-2]).clamp_min(1)

    error = fake - real
    colour = error[:, :3]
    # Difference of channels: hue, which L1 on RGB alone learns last (design.md, traps).
    chroma = torch.stack([colour[:, 0] - colour[:, 1], colour[:, 2] - colour[:, 1]], 1)
    tone = F.avg_pool2d(colour, 16).abs().mean() + F.avg_pool2d(chroma, 8).abs().mean()
    slope = error[:, 3:].diff(dim=-1).abs()[..., :-1, :] + error[:, 3:].diff(dim=-2).abs()[..., :-1]
    mask = known[:, 3:, None, None]
    return {
        "basecolor": colour.abs().mean() + 3 * colour.square().mean(),
        "chroma": chroma.abs().mean(),
        "tone": tone,
        "normal": mean(error[:, 3:5].abs() + 2 * error[:, 3:5].square(), slice(3, 5)),
        "height": mean(error[:, 5:6].abs() + 2 * error[:, 5:6].square(), slice(5, 6)),
        "gradient": (slope * mask).sum() / (mask.sum() * slope.shape[-1] * slope.shape[-2]).clamp_min(1),
        "scalars": mean(error[:, 6:8].abs() + 2 * error[:, 6:8].square(), slice(6, 8)),
    }


def train(args: argparse.Namespace) -> None:
    loop = Loop(args.minutes, args.out / "autoencoder.jsonl", args.max_steps)
    device = loop.device
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed + loop.rank)
    torch.backends.cudnn.benchmark = True
    model = new_autoencoder(args.width)
    earlier: Path | None = args.decoder_only or args.encoder_only or args.same_latents
    if earlier:
        model = AutoencoderTiny.from_pretrained(earlier).float()
    elif args.resume:
        from safetensors.torch import load_file

        model.load_state_dict({k: v.float() for k, v in load_file(args.resume).items()})
    # Trained with its own zero padding: what a texel in the inside learns is what circular padding gives to all of
    # them, and plain convolutions take half the time of padded copies. Every texel is exact on a torus by construction.
    placed(model, device)
    loop.synchronise(model)
    former = copy.deepcopy(model.encoder).requires_grad_(False) if args.same_latents else None
    average = Average(model, 0.999)
    perceptual: nn.Module | None = None
    if args.lite0:
        from training.perceptual import Perceptual

        perceptual = placed(Perceptual(args.lite0), device)
    real = RealTextures(args.packs, "train", device, limit=args.limit)
    say(f"{len(real)} real textures in {loop.elapsed:.0f} s")
    options = {"batch": args.batch, "size": args.size, "pool": args.pool, "favour": dict(args.favour)}
    mixture = Mixture(real, device, seed=args.seed * 1000 + loop.rank, **options)
    if args.compile:
        for module in (*model.modules(), *(former.modules() if former is not None else ())):
            if type(module).__name__ == "AutoencoderTinyBlock":
                module.compile(dynamic=False)
        torch._dynamo.config.cache_size_limit = 256
    if args.decoder_only:
        model.encoder.requires_grad_(False)
    elif args.encoder_only:
        model.decoder.requires_grad_(False)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(
        parameters, args.rate, betas=(0.9, 0.99), weight_decay=1e-3, fused=device.type == "cuda"
    )
    weights = WEIGHTS | {"perceptual": args.perceptual} | dict(args.weight)
    mixture.fill()
    say(f"pools filled in {loop.elapsed:.0f} s")
    loop.begin()
    while not loop.done:
        batch = mixture.draw()
        x = batch.maps.to(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            given = batch.given.to(memory_format=torch.channels_last)
            z, moved = model.encoder(given).float(), None
            if former is not None:
                with torch.no_grad():
                    before = former(given).float()
                moved = F.mse_loss(z, before)
                # Every second sample is decoded from the latents that it had, which are those that a U-Net makes.
                kept = (torch.arange(len(z), device=device) + loop.step) % 2 == 0
                z = torch.where(kept[:, None, None, None], before, z)
            noisy = z + torch.randn_like(z) * (torch.rand(len(z), 1, 1, 1, device=device) * args.noise)
            fake = model.decoder(noisy).float()
            # What the encoder was shown it can give back; what it has to guess it can't, and would drown that out.
            weight = batch.known * (1 + 2 * (batch.given[:, :, 0, 0] != MISSING))
            losses = reconstruction(fake, x, weight)
            if moved is not None:
                losses["moved"] = moved
            if perceptual is not None:
                losses["perceptual"] = perceptual(fake[:, :3].clamp(-1.2, 1.2), x[:, :3])
        # Latents of a shrunk material should be the shrunk latents (scale equivariance: Kouzelis et al. 2025, EQ-VAE):
        # smoother latents are easier to diffuse.
        part = slice(0, None, 4)
        with torch.autocast(device.type, torch.bfloat16), torch.compiler.set_stance("force_eager"):
            small = model.decoder(F.avg_pool2d(z[part], 2)).float()
        losses["shrunk"] = 0.25 * sum(
            reconstruction(small, F.avg_pool2d(x[part], 2), weight[part]).values(), z.new_zeros(())
        )
        losses["prior"] = args.prior * (z.square().mean() + (z.abs() - 2.5).relu().square().mean() * 10)
        total = sum((weights.get(k, 1.0) * v for k, v in losses.items()), z.new_zeros(()))
        optimiser.zero_grad(set_to_none=True)
        total.backward()
        loop.average(parameters)
        norm = nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in optimiser.param_groups:
            group["lr"] = loop.rate(args.rate, 200, 0.55)
        optimiser.step()
        average.update(model)
        loop.tick(200, **losses, grad=norm, latent_std=z.std())
    average.copy_to(model)
    if loop.rank == 0:
        finish(model, mixture, args.out, earlier)


@torch.no_grad()
def finish(model: nn.Module, mixture: Mixture, out: Path, earlier: Path | None) -> None:
    """Save fp16 weights as a diffusers folder, with the latents' mean and deviation in its config.

    They are those of `earlier`, a folder whose latents a U-Net was trained on, or else measured.
    """
    latents = []
    for _ in range(16):
        batch = mixture.draw()
        latents.append(model.encoder(batch.given))  # pyright: ignore[reportCallIssue] - nn.Module attribute
    z = torch.cat([v.float() for v in latents])
    per_channel = z.std((0, 2, 3))
    say(f"latents: mean {z.mean():.3f}, std {z.std():.3f}, channels {per_channel.min():.3f} to {per_channel.max():.3f}")
    state = {k: v.detach().half().contiguous().cpu() for k, v in model.state_dict().items()}
    plain = new_autoencoder(state["encoder.layers.0.weight"].shape[0])
    plain.load_state_dict(state)
    if earlier is not None:
        config: dict[str, Any] = json.loads((earlier / "config.json").read_text())
        plain.register_to_config(scaling_factor=config["scaling_factor"], shift_factor=config["shift_factor"])
    else:
        mean, deviation = float(z.mean()), float(z.std())
        plain.register_to_config(scaling_factor=round(1 / deviation, 5), shift_factor=round(mean, 5))
    plain.half().save_pretrained(out / "vae")


def favoured(text: str) -> tuple[str, float]:
    """A procedural family and how often it is drawn out of `leather=4`."""
    name, _, value = text.partition("=")
    if name not in FAMILIES:
        raise argparse.ArgumentTypeError(f"expected one of {', '.join(sorted(FAMILIES))}, but got {name!r}")
    return name, float(value)


def weight(text: str) -> tuple[str, float]:
    """A loss and its weight out of `height=4`."""
    name, _, value = text.partition("=")
    if name not in WEIGHTS:
        raise argparse.ArgumentTypeError(f"expected one of {', '.join(WEIGHTS)}, but got {name!r}")
    return name, float(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packs", type=Path, required=True)
    parser.add_argument("--lite0", type=Path, help="EfficientNet-Lite0 under timm's names, for the perceptual loss")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", type=Path, help="safetensors file to start from")
    half = parser.add_mutually_exclusive_group()
    half.add_argument("--decoder-only", type=Path, metavar="VAE", help="vae folder to go on from, its encoder frozen")
    half.add_argument("--encoder-only", type=Path, metavar="VAE", help="vae folder to go on from, its decoder frozen")
    half.add_argument(
        "--same-latents", type=Path, metavar="VAE", help="vae folder to go on from, both halves; its latents stay good"
    )
    parser.add_argument("--minutes", type=float, default=7.0)
    parser.add_argument("--max-steps", type=int)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--pool", type=int, default=2048, help="views of each kind kept to draw from")
    parser.add_argument("--width", type=int, default=80)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument(
        "--noise", type=float, default=0.2, help="largest deviation of the noise put on latents in training"
    )
    parser.add_argument("--prior", type=float, default=2e-3)
    parser.add_argument("--perceptual", type=float, default=0.12)
    parser.add_argument(
        "--weight", type=weight, action="append", default=[], metavar="LOSS=VALUE", help=f"out of {', '.join(WEIGHTS)}"
    )
    parser.add_argument(
        "--favour", type=favoured, action="append", default=[], metavar="FAMILY=TIMES", help="draw it more often"
    )
    parser.add_argument("--limit", type=int, help="use only so many real textures (for a smoke test)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=torch.cuda.is_available())
    train(parser.parse_args())


if __name__ == "__main__":
    main()
