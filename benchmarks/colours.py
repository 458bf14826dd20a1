"""Do colour words work? Pairs of prompts that differ in one colour, or in one material.

    python -m benchmarks.colours --pairs PAIRS.csv --out DIR [--seeds 2 --limit N --steps N]
        [--report PATH/generator_report.py --json FILE]

PAIRS has the columns prompt_a, prompt_b, kind (colour or material). Every prompt is made `--seeds` times at 256x256 px;
what is already in DIR stays. A colour image is right if the mean CIELAB of its basecolor is nearer to the reference of
its own colour word than to that of the other's; a pair is in order if its two colours differ in the direction in which
the references do, whatever the prompts' material adds to both. Material pairs are only measured with `--report`:
feature distance between the two prompts over that between two seeds of one prompt (above 1: the word matters more than
the noise).
"""

from __future__ import annotations

import argparse
import re
import runpy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.generator import generate, read_rows
from benchmarks.table import Figure, add_json, finish

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


def references() -> dict[str, Array]:
    """CIELAB of every colour word: the palette that the procedural materials' captions are written from."""
    import numpy as np

    from materials.procedural.palette import NAMED
    from training.captions import srgb_to_lab

    return {name: srgb_to_lab(np.array(value) * 255) for name, value in NAMED.items()}


def colour_word(prompt: str, words: Sequence[str]) -> str:
    """The longest of `words` that `prompt` contains. Raises ValueError where it names none.

    >>> colour_word("dark grey brick", ["grey", "dark grey"])
    'dark grey'
    """
    found = [w for w in words if re.search(rf"\b{re.escape(w)}\b", prompt.lower())]
    if not found:
        raise ValueError(f"Expected a prompt with a colour word, but got {prompt!r}")
    return max(found, key=len)


def is_nearer(lab: Array, own: Array, other: Array) -> bool:
    """Whether a CIELAB colour is nearer to `own` than to `other`: Euclidean distance (CIE 1976)."""
    return float(((lab - own) ** 2).sum()) < float(((lab - other) ** 2).sum())


def in_order(a: Array, b: Array, own: Array, other: Array) -> bool:
    """Whether the colours of a pair differ in the direction in which their references differ."""
    return float(((a - b) * (own - other)).sum()) > 0


def file_id(prompt: str, seed: int) -> str:
    """Name of an image file, without its ending."""
    return f"{re.sub(r'[^a-z0-9]+', '-', prompt.lower()).strip('-')}-{seed}"


def make(prompts: Sequence[str], seeds: int, args: argparse.Namespace) -> None:
    """Generate every prompt under every seed; both prompts of a pair start from the same noise."""
    rows = [{"id": file_id(p, s), "prompt": p, "seed": str(s)} for s in range(seeds) for p in prompts]
    generate(rows, args.out, args.model, {"steps": args.steps, "guidance": args.guidance})


def mean_lab(path: Path) -> Array:
    """Mean CIELAB (3,) of an image file."""
    import numpy as np
    from PIL import Image

    from training.captions import srgb_to_lab

    return srgb_to_lab(np.asarray(Image.open(path).convert("RGB"))).reshape(-1, 3).mean(0)


def colour_figures(
    pairs: Sequence[Mapping[str, str]], args: argparse.Namespace
) -> tuple[list[Figure], list[dict[str, Any]]]:
    """Accuracy over images and over pairs, and one row an image."""
    known = references()
    right, ordered, rows = [], [], []
    for pair in pairs:
        prompts = (pair["prompt_a"], pair["prompt_b"])
        words = [colour_word(p, list(known)) for p in prompts]
        refs = [known[w] for w in words]
        for seed in range(args.seeds):
            labs = [mean_lab(args.out / f"{file_id(p, seed)}.png") for p in prompts]
            hits = [is_nearer(labs[0], refs[0], refs[1]), is_nearer(labs[1], refs[1], refs[0])]
            right += hits
            ordered.append(in_order(labs[0], labs[1], refs[0], refs[1]))
            for k in (0, 1):
                lab = [round(float(v), 2) for v in labs[k]]
                entry = {"prompt": prompts[k], "against": words[1 - k], "seed": seed, "lab": lab, "right": hits[k]}
                rows.append(entry)
    wrong = [r for r in rows if not r["right"]]
    figures = [
        Figure(name="colour pairs", value=len(pairs)),
        Figure(name="images nearer to their own colour", value=sum(right) / len(right)),
        Figure(name="pairs that differ in the right direction", value=sum(ordered) / len(ordered)),
    ]
    for word in sorted({colour_word(r["prompt"], list(known)) for r in rows}):
        mine = [r["right"] for r in rows if colour_word(r["prompt"], list(known)) == word]
        figures.append(Figure(name=f"  {word} ({len(mine)} images)", value=sum(mine) / len(mine)))
    for r in wrong[:20]:
        print(f"wrong: {r['prompt']!r} seed {r['seed']} looks like {r['against']}, Lab {r['lab']}")
    return figures, rows


def material_figures(pairs: Sequence[Mapping[str, str]], args: argparse.Namespace) -> list[Figure]:
    """Feature distance between the two prompts of a pair, and over that of two seeds of one prompt."""
    import numpy as np

    from textile_metric.torchvision_guard import guard_torchvision

    guard_torchvision()
    module = runpy.run_path(str(args.report), run_name="generator_report")
    prompts = unique(pairs)
    pictures = [module["load_rgb"](args.out / f"{file_id(p, s)}.png") for p in prompts for s in range(args.seeds)]
    features = module["describe"](module["load_lite0"](), pictures).reshape(len(prompts), args.seeds, -1)
    at = {p: features[i] for i, p in enumerate(prompts)}
    apart = np.mean([np.linalg.norm(at[p["prompt_a"]] - at[p["prompt_b"]], axis=-1).mean() for p in pairs])
    figures = [
        Figure(name="material pairs", value=len(pairs)),
        Figure(name="material pairs: mean feature distance", value=float(apart)),
    ]
    if args.seeds > 1:
        within = np.linalg.norm(features[:, 1:] - features[:, :1], axis=-1).mean()
        figures.append(Figure(name="  over that between seeds of one prompt", value=float(apart / max(within, 1e-9))))
    return figures


def unique(pairs: Sequence[Mapping[str, str]]) -> list[str]:
    """The pairs' prompts, each once, in order."""
    return list(dict.fromkeys(p for pair in pairs for p in (pair["prompt_a"], pair["prompt_b"])))


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments, with those that say what `make` makes, of which pairs, and --json."""
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the images; those there are kept")
    parser.add_argument("--model", help="diffusers folder or hub id; the shipped weights by default")
    parser.add_argument("--seeds", type=int, default=1, help="images of every prompt")
    parser.add_argument("--steps", type=int, help="the model's default if not given")
    parser.add_argument("--guidance", type=float, help="the model's default if not given")
    add_json(parser)
    args = parser.parse_args()
    if args.seeds < 1:
        parser.error(f"expected at least one seed, but got {args.seeds}")
    return args


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, help="only so many pairs of each kind")
    parser.add_argument("--report", type=Path, help="generator_report.py, whose features measure material pairs")
    args = parsed(parser)
    pairs = read_rows(args.pairs)
    colour = [p for p in pairs if p["kind"] == "colour"][: args.limit]
    material = [p for p in pairs if p["kind"] == "material"][: args.limit] if args.report else []
    make(unique(colour + material), args.seeds, args)
    figures, rows = colour_figures(colour, args) if colour else ([], [])
    if material:
        figures += material_figures(material, args)
    return finish("colours", figures, args.json, {"seeds": args.seeds, "images": rows})


if __name__ == "__main__":
    raise SystemExit(main())
