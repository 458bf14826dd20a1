"""Is seamless exact? A roll of the input must be a roll of the output, and an axis not asked for must not wrap.

    python -m benchmarks.equivariance [--json FILE]

For the shipped U-Net and the shipped decoder, float32: max |f(roll z) - roll f(z)| over shifts that are multiples of
the network's stride, on every axis asked for (bar 1e-4). On the axes not asked for the same difference must be large,
and what the decoder makes of the first column or row must not change at all when the last one does.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from benchmarks.table import Figure, add_json, finish

if TYPE_CHECKING:
    from torch import Tensor

    from materials.pipeline import MaterialPipeline

TOLERANCE = 1e-4
WRAPLESS = 100 * TOLERANCE
"""Least difference that shows that an axis does not wrap; outputs are of the order of 1."""
AXES = ("xy", "x", "y")
BEYOND = 64
"""Latent cells along the tested axis: more than the decoder's reach from one border, so the other can't be seen."""


def rolled_difference(f: Callable[[Tensor], Tensor], z: Tensor, cells: tuple[int, int], pixels: int) -> float:
    """max |f(roll z) - roll f(z)| for a shift of (rows, columns) input cells, each `pixels` output cells wide."""
    shift = (cells[0] * pixels, cells[1] * pixels)
    return float((f(z.roll(cells, (-2, -1))) - f(z).roll(shift, (-2, -1))).abs().max())


def shifts(axis: str, stride: int, size: tuple[int, int]) -> list[tuple[int, int]]:
    """Shifts (rows, columns) along an axis ("x", "y" or "xy"): one stride, and the largest one below `size` (h, w)."""
    near, far = (stride, stride), (size[0] - stride, size[1] - stride)
    return [(s[0] if "y" in axis else 0, s[1] if "x" in axis else 0) for s in (near, far)]


def figures_of(
    name: str, model: object, f: Callable[[Tensor], Tensor], z: Tensor, stride: int, pixels: int
) -> list[Figure]:
    """Rolls along every axis under every kind of seamlessness."""
    from asd.seamless import Seamless

    size, out = (z.shape[-2], z.shape[-1]), []
    for axes in (*AXES, "none"):
        with Seamless(model, axes):  # pyright: ignore[reportArgumentType] - an nn.Module, and one of the literals
            if axes != "none":
                rolls = [cells for part in {axes, *axes} for cells in shifts(part, stride, size)]
                worst = max(rolled_difference(f, z, cells, pixels) for cells in rolls)
                out.append(Figure(name=f"{name}, seamless {axes}: roll {axes}", value=worst, bar=TOLERANCE))
            for axis in "xy":
                if axis not in axes:
                    least = min(rolled_difference(f, z, cells, pixels) for cells in shifts(axis, stride, size))
                    label = f"{name}, seamless {axes}: no wrap on {axis}"
                    out.append(Figure(name=label, value=least, bar=WRAPLESS, relation=">="))
    return out


def influence(pipeline: MaterialPipeline) -> list[Figure]:
    """How much the decoder's first line of texels sees of the last line of latents, far away unless it wraps."""
    import torch

    from asd.seamless import Seamless

    decode, out = pipeline.vae.decoder, []
    for axis, dim in (("x", -1), ("y", -2)):
        shape = (1, 16, 8, BEYOND) if axis == "x" else (1, 16, BEYOND, 8)
        z = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        other = z.clone()
        other.select(dim, -1).add_(1.0)
        for axes in (*AXES, "none"):
            with Seamless(pipeline.vae, axes):  # pyright: ignore[reportArgumentType] - one of the literals
                change = (decode(z) - decode(other)).select(dim, 0).abs().max()
            wraps = axis in axes
            label = f"decoder, seamless {axes}: far {axis} border {'seen' if wraps else 'unseen'}"
            bar, relation = (TOLERANCE, ">=") if wraps else (0.0, "<=")
            out.append(Figure(name=label, value=float(change), bar=bar, relation=relation))
    return out


def measure(model: str | None, cells: tuple[int, int]) -> list[Figure]:
    """All figures; `cells` = (rows, columns) of the latents, multiples of the U-Net's stride."""
    import torch

    from materials.conditioning import condition_vector
    from materials.pipeline import MaterialPipeline
    from materials.prompt import encode_prompts

    pipeline = MaterialPipeline.from_pretrained(model, device="cpu", dtype=torch.float32)
    channels = int(pipeline.unet.config["in_channels"])
    z = torch.randn((1, channels, *cells), generator=torch.Generator().manual_seed(0))
    text = encode_prompts(pipeline.tokenizer, pipeline.text_encoder, ["mossy cobblestone wall"])
    one = torch.ones(1)
    condition = condition_vector(text.pooled, 0 * one, one, one, 0 * one)

    def unet(x: Tensor) -> Tensor:
        t = torch.tensor([500.0])
        options = {"class_labels": condition, "encoder_attention_mask": text.mask, "return_dict": False}
        return pipeline.unet(x, t, text.tokens, **options)[0]

    with torch.inference_mode():
        out = figures_of("U-Net", pipeline.unet, unet, z, pipeline.stride, 1)
        out += figures_of("decoder", pipeline.vae, lambda x: pipeline.vae.decoder(x), z, 1, 8)
        return out + influence(pipeline)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="diffusers folder or hub id; the shipped weights by default")
    parser.add_argument("--cells", type=int, nargs=2, default=(16, 24), metavar=("ROWS", "COLUMNS"), help="latent size")
    add_json(parser)
    args = parser.parse_args()
    return finish("equivariance", measure(args.model, tuple(args.cells)), args.json)


if __name__ == "__main__":
    raise SystemExit(main())
