"""Does the same request give the same pixels, alone and in a batch?

    python -m benchmarks.determinism [--size 512x512 --steps N --json FILE]

The same call twice must be bit-identical. Each of four different requests alone is compared with itself in a batch of
four: largest difference over all maps in the units that files hold (0 to 1), bar 1/255.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from benchmarks.table import Figure, add_json, finish, size

if TYPE_CHECKING:
    from torch import Tensor

    from materials.material import Material

PROMPTS = ("mossy cobblestone wall", "red brick", "brushed steel plate with rivets and some rust", "fine white sand")
SEEDS = (7, 0, 123456, 8)


def file_units(material: Material) -> dict[str, Tensor]:
    """The maps as files hold them, (C, H, W) in [0, 1]: the normal moved from [-1, 1]."""
    from materials.material import MAPS

    maps = {name: getattr(material, name) for name in MAPS}
    return maps | {"normal": maps["normal"] * 0.5 + 0.5}


def difference(a: Material, b: Material) -> dict[str, float]:
    """Largest absolute difference per map, in file units."""
    left, right = file_units(a), file_units(b)
    return {name: float((left[name] - right[name]).abs().max()) for name in left}


def measure(model: str | None, pixels: tuple[int, int], steps: int | None) -> list[Figure]:
    from materials.pipeline import MaterialPipeline

    pipeline = MaterialPipeline.from_pretrained(model)
    alone = [pipeline(p, size=pixels, steps=steps, seed=s) for p, s in zip(PROMPTS, SEEDS, strict=True)]
    again = pipeline(PROMPTS[0], size=pixels, steps=steps, seed=SEEDS[0])
    together = pipeline(PROMPTS, size=pixels, steps=steps, seed=SEEDS)
    twice = difference(alone[0], again)
    batched = [difference(a, b) for a, b in zip(alone, together, strict=True)]
    depth = max(abs(a.depth_m - b.depth_m) / max(a.depth_m, 1e-9) for a, b in zip(alone, together, strict=True))
    figures = [
        Figure(name="twice: largest difference", value=max(twice.values()), bar=0.0),
        Figure(name="twice: difference of depth_m", value=abs(alone[0].depth_m - again.depth_m), bar=0.0),
        Figure(name="in a batch of 4: largest difference", value=max(max(d.values()) for d in batched), bar=1 / 255),
    ]
    figures += [Figure(name=f"in a batch of 4: {name}", value=max(d[name] for d in batched)) for name in batched[0]]
    return [*figures, Figure(name="in a batch of 4: relative difference of depth_m", value=depth)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="diffusers folder or hub id; the shipped weights by default")
    parser.add_argument("--size", type=size, default=(512, 512))
    parser.add_argument("--steps", type=int, help="the model's default if not given")
    add_json(parser)
    args = parser.parse_args()
    return finish("determinism", measure(args.model, args.size, args.steps), args.json)


if __name__ == "__main__":
    raise SystemExit(main())
