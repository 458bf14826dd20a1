"""Train the material U-Net: `python -m training.diffusion --packs DIR --vae DIR --text DIR --out DIR --minutes 17`."""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from textile_metric.torchvision_guard import guard_torchvision

guard_torchvision()

from diffusers import AutoencoderTiny  # noqa: E402 - the guard must come first
from safetensors.torch import load_file, save_file  # noqa: E402 - with the other libraries
from transformers import AutoTokenizer, BertModel  # noqa: E402 - the guard must come first

from materials.conditioning import condition_vector  # noqa: E402 - see above
from materials.prompt import encode_prompts  # noqa: E402 - see above
from training.bank import TOKENS, Bank, Encoder, build  # noqa: E402 - see above
from training.loop import Average, Loop, say  # noqa: E402 - see above
from training.models import new_unet, placed  # noqa: E402 - see above
from training.views import RealTextures  # noqa: E402 - see above
from training.wrap import set_wrap, wrap_convolutions  # noqa: E402 - see above

SQUARE = (256, 256)
ASPECTS = ((192, 320), (320, 192), (160, 384), (384, 160), (256, 512), (512, 256))
"""Heights and widths in px of the views other than square."""
LARGE = (512, 512)
"""With the others, what the model sees."""
HELD = 256
"""Views of validation textures."""
SHEET = (
    "brick wall", "red brick wall", "blue ceramic tiles", "grass", "alpine arctic cliff, rock", "sand", "wood planks",
    "rust metal", "mossy cobblestone wall", "concrete", "snow", "green woven fabric", "roof shingles", "lava",
    "brown leather", "floor stone tile clean, tiles",
)  # fmt: skip


Text = tuple[Tensor, Tensor, Tensor]
"""Tokens, mask and pooled embedding of a prompt."""


def velocity(unet: nn.Module, x: Tensor, level: Tensor, batch: Bank, empty: Text, drop: Tensor | None = None) -> Tensor:
    """The U-Net's velocity at x (N, C, h, w), noise levels (N,), by the captions or, where `drop`, by `empty`."""
    tokens, mask, pooled = batch.tokens, batch.mask, batch.pooled
    if drop is not None:
        tokens = torch.where(drop[:, None, None], empty[0], tokens)
        mask = torch.where(drop[:, None], empty[1], mask)
        pooled = torch.where(drop[:, None], empty[2], pooled)
    condition = condition_vector(pooled.float(), batch.scale, batch.wrap_x, batch.wrap_y, batch.domain)
    set_wrap(batch.wrap_x, batch.wrap_y)
    with torch.autocast(x.device.type, torch.bfloat16):
        return unet(
            x.to(memory_format=torch.channels_last), level * 1000, tokens, class_labels=condition,
            encoder_attention_mask=mask, return_dict=False,
        )[0].float()  # fmt: skip


def loss_of(
    unet: nn.Module, batch: Bank, sigma: Tensor, noise: Tensor, empty: Text, drop: Tensor
) -> Tensor:
    """Flow-matching loss (Lipman et al. 2023; Liu et al. 2023): x = (1 - s) z + s e, target e - z. One per sample."""
    z = batch.z.float()
    s = sigma.view(-1, 1, 1, 1)
    v = velocity(unet, (1 - s) * z + s * noise, sigma, batch, empty, drop)
    return (v - (noise - z)).square().mean((1, 2, 3))


@torch.no_grad()
def validate(unet: nn.Module, bank: Bank, empty: Text) -> Tensor:
    """Mean loss on a held-out bank at nine noise levels, the same noise each time."""
    generator = torch.Generator(bank.z.device).manual_seed(0)
    losses = []
    for k in range(1, 10):
        for index in torch.arange(len(bank), device=bank.z.device).split(128):
            part = bank.pick(index)
            noise = torch.randn(part.z.shape, device=part.z.device, generator=generator)
            sigma = torch.full((len(part),), k / 10, device=part.z.device)
            losses.append(loss_of(unet, part, sigma, noise, empty, torch.zeros_like(sigma, dtype=torch.bool)))
    return torch.cat(losses).mean()


@torch.no_grad()
def sheet(
    unet: nn.Module,
    vae: nn.Module,
    encoder: Encoder,
    empty: Text,
    path: Path,
    guidance: float = 3.0,
    sigmas: Sequence[float] = tuple(1 - k / 16 for k in range(17)),
) -> None:
    """Draw the prompts of SHEET with Euler steps between noise levels: basecolor above, normals below."""
    from PIL import Image

    device, n = encoder.device, len(SHEET)
    text = encode_prompts(encoder.tokenizer, encoder.text_encoder, SHEET, length=TOKENS)
    one = torch.ones(2 * n, device=device)
    set_wrap(one, one)
    pooled = torch.cat([text.pooled, empty[2].expand(n, -1)]).float()
    condition = condition_vector(pooled, one * 0, one, one, one)
    tokens, mask = (
        torch.cat([text.tokens.to(empty[0].dtype), empty[0].expand(n, -1, -1)]),
        torch.cat([text.mask, empty[1].expand(n, -1)]),
    )
    x = torch.randn(n, 16, 32, 32, device=device, generator=torch.Generator(device).manual_seed(1))
    for now, then in pairwise(sigmas):
        with torch.autocast(device.type, torch.bfloat16):
            double = torch.cat([x, x]).to(memory_format=torch.channels_last)
            v = unet(
                double, one * now * 1000, tokens, class_labels=condition, encoder_attention_mask=mask, return_dict=False
            )[0].float()
        x = x + (then - now) * (v[n:] + guidance * (v[:n] - v[n:]))
    config: Any = vae.config
    set_wrap(one[:n], one[:n])
    maps = vae.decoder(x / config.scaling_factor + config.shift_factor).clamp(-1, 1) * 0.5 + 0.5  # pyright: ignore[reportCallIssue] - nn.Module attribute
    z = (1 - (maps[:, 3:5] * 2 - 1).square().sum(1, keepdim=True)).clamp_min(0).sqrt() * 0.5 + 0.5
    pictures = torch.cat([maps[:, :3], torch.cat([maps[:, 3:5], z], 1)])
    rows = [torch.cat(list(pictures[i : i + 8]), -1) for i in range(0, 2 * n, 8)]
    image = (torch.cat(rows, -2).permute(1, 2, 0) * 255).round().byte().cpu().numpy()
    Image.fromarray(image).save(path, quality=88)


@dataclass
class Prepared:
    """What the trainers of the U-Net start from; banks by (height, width) in px."""

    unet: nn.Module
    vae: nn.Module
    encoder: Encoder
    empty: Text
    banks: dict[tuple[int, int], Bank]
    validation: Bank
    rng: random.Random
    real: RealTextures

    def renew(self, chunk: int) -> None:
        """Draw some views of the square bank anew, real ones for real ones: what stays is learned by heart."""
        bank = self.banks[SQUARE]
        first = self.rng.randrange(0, len(bank), chunk)
        place = slice(first, min(first + chunk, len(bank)))
        real = chunk if bool(bank.domain[first] > 0) else 0
        counts = {"real_count": real, "procedural_count": chunk - real}
        fresh = build(self.encoder, self.real, self.rng, *SQUARE, **counts, chunk=chunk)
        for field in fields(Bank):
            getattr(bank, field.name)[place] = getattr(fresh, field.name)[: place.stop - place.start]


def load_networks(vae_folder: Path, text_folder: Path, device: torch.device) -> tuple[Encoder, Text]:
    """The frozen autoencoder and sentence encoder, and the empty prompt's embedding."""
    vae = AutoencoderTiny.from_pretrained(vae_folder).float().eval().requires_grad_(False)
    placed(wrap_convolutions(vae), device)
    tokenizer = AutoTokenizer.from_pretrained(text_folder)
    text_encoder = BertModel.from_pretrained(text_folder, add_pooling_layer=False).float().eval().requires_grad_(False)
    placed(text_encoder, device)
    blank = encode_prompts(tokenizer, text_encoder, [""], length=TOKENS)
    half = torch.float16 if device.type == "cuda" else torch.float32
    return Encoder(vae, tokenizer, text_encoder, device), (blank.tokens.to(half), blank.mask, blank.pooled.to(half))


def prepare(args: argparse.Namespace, loop: Loop) -> Prepared:
    """The networks on the device, and the pack's views and procedural ones encoded into banks."""
    device = loop.device
    args.out.mkdir(parents=True, exist_ok=True)
    seed = args.seed * 1000 + loop.rank
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    rng = random.Random(seed)
    unet = new_unet(tuple(args.channels))
    if args.resume:
        unet.load_state_dict({k: v.float() for k, v in load_file(args.resume).items()})
    placed(wrap_convolutions(unet), device)
    loop.synchronise(unet)
    encoder, empty = load_networks(args.vae, args.text, device)
    vae = encoder.vae

    begun = time.monotonic()
    real = RealTextures(args.packs, "train", device, limit=args.limit)
    held = RealTextures(args.packs, "val", device, limit=args.limit)
    say(f"{len(real)} real textures read in {time.monotonic() - begun:.0f} s")

    def bank(height: int, width: int, from_real: float, from_procedural: float, chunk: int) -> Bank:
        counts = {"real_count": int(args.bank * from_real), "procedural_count": int(args.bank * from_procedural)}
        return build(encoder, real, rng, height, width, **counts, chunk=min(args.chunk, chunk))

    banks = {SQUARE: bank(*SQUARE, args.real_share, 1 - args.real_share, 64)}
    say(f"first bank in {time.monotonic() - begun:.0f} s")
    banks |= {shape: bank(*shape, 0.03, 0.02, 64) for shape in ASPECTS}
    banks[LARGE] = bank(*LARGE, 0.05, 0.03, 16)
    unseen = {"real_count": min(HELD, args.bank), "procedural_count": 0, "chunk": min(args.chunk, 64)}
    validation = build(encoder, held, random.Random(0), *SQUARE, **unseen)
    say(f"banks of {[len(b) for b in banks.values()]} views in {time.monotonic() - begun:.0f} s")
    return Prepared(unet, vae, encoder, empty, banks, validation, rng, real)


def compile_blocks(unet: nn.Module) -> None:
    """Compile the blocks that repeat, each once for the shape that most steps have."""
    torch._dynamo.config.cache_size_limit = 512
    torch._dynamo.config.accumulated_cache_size_limit = 2048
    for module in unet.modules():
        if type(module).__name__ in ("ResnetBlock2D", "Transformer2DModel", "Downsample2D", "Upsample2D"):
            module.compile(dynamic=False)


def train(args: argparse.Namespace) -> None:
    loop = Loop(args.minutes, args.out / "diffusion.jsonl", args.max_steps)
    device = loop.device
    made = prepare(args, loop)
    unet, banks, rng, empty = made.unet, made.banks, made.rng, made.empty
    average = Average(unet, args.ema)
    if args.compile:
        compile_blocks(unet)
    parameters = list(unet.parameters())
    optimiser = torch.optim.AdamW(
        parameters, args.rate, betas=(0.9, 0.99), weight_decay=0.01, fused=device.type == "cuda"
    )
    others = [k for k in banks if k != SQUARE]
    loop.begin()
    next_sheet = args.sheet_every * 60.0
    while not loop.done:
        square = rng.random() >= args.other_shapes
        batch = draw(banks, SQUARE if square else rng.choice(others), args.batch)
        size = len(batch)
        # Where the model can't know a texture's source it must serve any.
        batch.domain = batch.domain * (torch.rand(size, device=device) > 0.15)
        if args.renew and loop.step % args.renew == 0:
            made.renew(args.chunk)
        sigma = torch.sigmoid(torch.randn(size, device=device) + args.sigma_shift)
        drop = torch.rand(size, device=device) < 0.12
        noise = torch.randn(batch.z.shape, device=device)
        with torch.compiler.set_stance("default" if square else "force_eager"):
            loss = loss_of(unet, batch, sigma, noise, empty, drop).mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
        loop.average(parameters)
        norm = nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        for group in optimiser.param_groups:
            group["lr"] = loop.rate(args.rate, args.warmup, args.decay_from)
        optimiser.step()
        average.update(unet)
        loop.tick(200, loss=loss, grad=norm)
        if loop.rank == 0 and loop.elapsed > next_sheet and not loop.done:
            next_sheet += args.sheet_every * 60
            report(made, average, args.out, loop.step)
    if loop.rank == 0:
        report(made, average, args.out, loop.step)
        average.copy_to(unet)
        save(unet, args.out)


def draw(banks: Mapping[tuple[int, int], Bank], shape: tuple[int, int], most: int) -> Bank:
    """A random batch of one shape, rolled: `most` samples of 256x256 px, or as many as have the area of those."""
    bank = banks[shape]
    size = max(1, most * SQUARE[0] * SQUARE[1] // (shape[0] * shape[1]))
    return bank.pick(torch.randint(len(bank), (size,), device=bank.z.device)).rolled()


def report(made: Prepared, average: Average, out: Path, step: int) -> None:
    """Validate and draw with the averaged weights, keep a copy to resume from, then put the training ones back."""
    unet = made.unet
    with average.applied(unet):
        with torch.compiler.set_stance("force_eager"):
            say(f"step {step}: validation loss {float(validate(unet, made.validation, made.empty)):.5f}")
            sheet(unet, made.vae, made.encoder, made.empty, out / "sheet.jpg")
        save(unet, out)


def save(unet: nn.Module, out: Path) -> None:
    state = {k: v.detach().half().contiguous().cpu() for k, v in unet.state_dict().items()}
    temporary = out / "unet.safetensors.tmp"
    save_file(state, temporary)
    temporary.replace(out / "unet.safetensors")


def parser_of(text: str | None) -> argparse.ArgumentParser:
    """The options that all trainers of the U-Net have."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packs", type=Path, required=True)
    parser.add_argument("--vae", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True, help="folder with MiniLM-L6 and its tokenizer")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", type=Path, help="safetensors file to start from")
    parser.add_argument("--minutes", type=float, default=17.0)
    parser.add_argument("--max-steps", type=int)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--bank", type=int, default=30000, help="views of 256x256 px encoded before training, per rank")
    parser.add_argument("--real-share", type=float, default=0.6)
    parser.add_argument("--chunk", type=int, default=64)
    parser.add_argument("--channels", type=int, nargs=3, default=(128, 256, 352))
    parser.add_argument("--other-shapes", type=float, default=0.08, help="share of steps on shapes other than 256x256")
    parser.add_argument("--sheet-every", type=float, default=4.0, help="minutes")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=torch.cuda.is_available())
    return parser


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--warmup", type=int, default=300)
    parser.add_argument("--decay-from", type=float, default=0.6)
    parser.add_argument("--ema", type=float, default=0.9995)
    parser.add_argument("--sigma-shift", type=float, default=0.0)
    parser.add_argument("--renew", type=int, default=8, help="draw --chunk views anew every so many steps; 0: never")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
