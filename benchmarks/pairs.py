"""Does a prompt's word decide? Of the two words of a pair of prompts, is each image told by its own?

    python -m benchmarks.pairs --pairs PAIRS.csv --out DIR --data ROOT --report PATH/generator_report.py
        [--cache features.npz --seeds 1 --steps N --guidance G --json FILE]

PAIRS has the columns prompt_a, prompt_b, kind (colour or material). Every prompt is made once a seed, at 256x256 px;
what is already in DIR stays, so that a run that was stopped goes on. Every image of a pair is a choice between the two
prompts. Of colours: whose reference colour is nearer to the mean CIELAB of its basecolor (as in `benchmarks.colours`).
Of materials: for whose class the report's classifier, trained on the real training split, has the larger logit; a
material's class is the one whose name it begins with. Misses are printed.
"""

from __future__ import annotations

import argparse
import re
import runpy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.colours import colour_word, file_id, is_nearer, make, mean_lab, parsed, references, unique
from benchmarks.generator import read_rows
from benchmarks.table import Figure, finish

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BAR = 0.85


def own_words(prompts: tuple[str, str]) -> tuple[str, str]:
    """What each of two prompts says that the other does not.

    >>> own_words(("weathered wood planks", "weathered sand"))
    ('wood planks', 'sand')
    """
    a, b = (prompt.split() for prompt in prompts)
    return " ".join(w for w in a if w not in b), " ".join(w for w in b if w not in a)


def class_of(words: str, classes: Sequence[str]) -> str:
    """The class whose name has the first of `words` that any class's name has, in whole or as its beginning.

    Raises ValueError where none has one.

    >>> class_of("ceramic tiles", ["sand/desert", "tile"]), class_of("cobblestone paving", ["paving/cobble"])
    ('tile', 'paving/cobble')
    """
    for word in words.lower().split():
        for name in classes:
            if any(word.startswith(part) for part in re.findall(r"[a-z]+", name)):
                return name
    raise ValueError(f"Expected a class named in {words!r}, but there are {', '.join(classes)}")


def logits_of(args: argparse.Namespace, real: Sequence[Mapping[str, str]]) -> tuple[list[str], dict[str, Any]]:
    """The classes, and for every image of `args.out` by its name the report's classifier's logits.

    Raises ValueError where the cache doesn't hold one row of features for each real image.
    """
    import numpy as np
    import torch

    from textile_metric.torchvision_guard import guard_torchvision

    guard_torchvision()
    module = runpy.run_path(str(args.report), run_name="generator_report")
    net = module["load_lite0"]()
    if args.cache and args.cache.is_file():
        features: NDArray[np.float32] = np.load(args.cache)["real"]
    else:
        features = module["describe"](net, [module["load_rgb"](args.data / r["path"]) for r in real])
    if len(features) != len(real):
        raise ValueError(f"Expected features of {len(real)} images in {args.cache}, but got {len(features)}")
    classes = sorted({r["class"] for r in real})
    train = np.array([r["split"] == "train" for r in real])
    label = np.array([classes.index(r["class"]) for r in real])
    layer = module["linear_classifier"](features[train], label[train], len(classes))
    files = sorted(args.out.glob("*.png"))
    told = module["describe"](net, [module["load_rgb"](file) for file in files])
    with torch.no_grad():
        answers = layer(torch.from_numpy(told)).numpy()
    return classes, {file.stem: answer for file, answer in zip(files, answers, strict=True)}


def colour_choices(pairs: Sequence[Mapping[str, str]], args: argparse.Namespace) -> list[dict[str, Any]]:
    """One row an image: the prompt, what it was chosen against, and whether it was."""
    known, rows = references(), []
    for pair in pairs:
        prompts = (pair["prompt_a"], pair["prompt_b"])
        refs = [known[colour_word(p, list(known))] for p in prompts]
        for seed in range(args.seeds):
            for k in (0, 1):
                lab = mean_lab(args.out / f"{file_id(prompts[k], seed)}.png")
                right = is_nearer(lab, refs[k], refs[1 - k])
                rows.append(_row("colour", prompts, k, seed, right, [round(float(v), 1) for v in lab]))
    return rows


def material_choices(
    pairs: Sequence[Mapping[str, str]], args: argparse.Namespace, real: Sequence[Mapping[str, str]]
) -> list[dict[str, Any]]:
    """As `colour_choices`. Raises ValueError for two words of one class."""
    classes, logits = logits_of(args, real)
    rows = []
    for pair in pairs:
        prompts = (pair["prompt_a"], pair["prompt_b"])
        names = [class_of(words, classes) for words in own_words(prompts)]
        if names[0] == names[1]:
            raise ValueError(f"Expected materials of two classes, but both of {prompts} are {names[0]}")
        for seed in range(args.seeds):
            for k in (0, 1):
                answer = logits[file_id(prompts[k], seed)]
                own, other = (float(answer[classes.index(name)]) for name in (names[k], names[1 - k]))
                rows.append(_row("material", prompts, k, seed, own > other, [names[k], names[1 - k]]))
    return rows


def _row(kind: str, prompts: tuple[str, str], k: int, seed: int, right: bool, told: list[Any]) -> dict[str, Any]:
    """`told` is what decided: the mean Lab, or the two classes."""
    return {"kind": kind, "prompt": prompts[k], "against": prompts[1 - k], "seed": seed, "right": right, "told": told}


def figures_of(rows: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """Shares of right choices: of all with the bar, by kind, and of pairs of which both are right."""
    pairs: dict[tuple[Any, ...], bool] = {}
    for row in rows:
        key = (row["seed"], *sorted((row["prompt"], row["against"])))
        pairs[key] = pairs.get(key, True) and row["right"]
    figures = [
        Figure(name="pairs", value=len(pairs)),
        Figure(name="choices", value=len(rows)),
        Figure(name="right choices", value=_share([r["right"] for r in rows]), bar=BAR, relation=">="),
    ]
    for kind in sorted({r["kind"] for r in rows}):
        figures.append(Figure(name=f"  {kind}", value=_share([r["right"] for r in rows if r["kind"] == kind])))
    return [*figures, Figure(name="pairs with both right", value=_share(list(pairs.values())))]


def _share(values: Sequence[bool]) -> float:
    return sum(values) / len(values)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the unpacked packages")
    parser.add_argument("--report", type=Path, required=True, help="generator_report.py")
    parser.add_argument("--manifest", type=Path, help="list of the real images; the report's own by default")
    parser.add_argument("--cache", type=Path, help="npz file with the real images' features, as the report writes it")
    args = parsed(parser)
    pairs = read_rows(args.pairs)
    manifest = args.manifest or args.report.resolve().parent.parent / "data" / "textures.csv"
    real = [r for r in read_rows(manifest) if (args.data / r["path"]).is_file()]
    make(unique(pairs), args.seeds, args)
    rows = colour_choices([p for p in pairs if p["kind"] == "colour"], args)
    material = [p for p in pairs if p["kind"] == "material"]
    rows += material_choices(material, args, real) if material else []
    for row in rows:
        if not row["right"]:
            print(f"missed: {row['prompt']!r} taken for {row['against']!r}, seed {row['seed']}: {row['told']}")
    return finish("pairs", figures_of(rows), args.json, {"seeds": args.seeds, "rows": rows})


if __name__ == "__main__":
    raise SystemExit(main())
