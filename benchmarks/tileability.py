"""Does the score know tiles from what only looks like one? Ours and every rival, on the same checked items.

    python -m benchmarks.tileability --data ROOT [--official model.safetensors] [--sheet FILE] [--json FILE]
        [--attack N [--second FOLDER]]

ROOT holds the unpacked packages. The tiles are those of `tileability_positives.csv`: validation textures, one of each
cluster of near-duplicates, looked at one by one rolled by half. Negatives of ten kinds are made from them
(`benchmarks.tileability_items`). Rivals get the threshold that suits them best on these very items; ours is 0.5.
`--attack N` adds gradient ascent on N non-tiles (`benchmarks.tileability_attack`).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import tileability_attack as attack
from benchmarks.table import Figure, add_json, finish, table
from benchmarks.tileability_items import KINDS, SIZES, Item, items, read_positives
from benchmarks.tileability_rivals import RIVALS, Score
from training.curve import auc

Doubles = NDArray[np.float64]
NEGATIVES = tuple(kind for kind in KINDS if kind not in ("tile", "mirrored"))
HARD = ("swapped_halves", "hue_seam", "feathered_seam", "lighting")
"""Where the best rival is to be beaten by five points."""
BINS = 15


def rates(score: Doubles, truth: NDArray[np.bool_], threshold: float) -> tuple[float, float]:
    """Accuracy and F1 (of tiles), with tiles and non-tiles weighted alike."""
    passed = score > threshold
    hit, false = float(passed[truth].mean()), float(passed[~truth].mean())
    return (hit + 1 - false) / 2, 2 * hit / (1 + hit + false)


def best_rates(score: Doubles, truth: NDArray[np.bool_]) -> tuple[float, float]:
    """The best accuracy over all thresholds, and the F1 there."""
    return max(rates(score, truth, float(t)) for t in np.unique(score))


def calibration_error(score: Doubles, truth: NDArray[np.bool_]) -> float:
    """Expected calibration error over `BINS` equal bins (Guo et al., 2017), tiles and non-tiles weighted alike."""
    weight = np.where(truth, 0.5 / truth.sum(), 0.5 / (~truth).sum())
    index = np.minimum((score * BINS).astype(int), BINS - 1)
    error = 0.0
    for b in range(BINS):
        inside = index == b
        total = weight[inside].sum()
        if total > 0:
            share, mean = (weight * truth)[inside].sum() / total, (weight * score)[inside].sum() / total
            error += float(total * abs(share - mean))
    return error


def ours(image: NDArray[np.uint8]) -> tuple[float, float]:
    import torch

    from textile_metric.score import axis_scores

    tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    with torch.no_grad():
        x, y = axis_scores(tensor)[0].tolist()
    return x, y


def official(path: Path) -> Score:
    """The published network, which has one score for both axes."""
    import torch

    from textile_metric import load_official

    model = load_official(path)

    def score(image: NDArray[np.uint8]) -> tuple[float, float]:
        with torch.no_grad():
            value = float(model(np.ascontiguousarray(image.transpose(2, 0, 1))))
        return value, value

    return score


def judged(found: Sequence[Item], score: Score) -> Doubles:
    """(items, 3): x, y and both, the worse of the two."""
    pairs = np.array([score(item.image) for item in found], dtype=np.float64)
    return np.column_stack([pairs, pairs.min(1)])


def by_kind(found: Sequence[Item], scores: Doubles) -> dict[str, float]:
    """AUC of each kind's broken axes against the axes of everything that tiles."""
    truth = np.array([item.tiles for item in found])
    kind = np.array([item.kind for item in found])
    axes = scores[:, :2]
    good = axes[truth & np.isin(kind, ("tile", "mirrored"))[:, None]]
    return {name: auc(axes[~truth & (kind == name)[:, None]], good) for name in NEGATIVES}


def summary(found: Sequence[Item], scores: Doubles, threshold: float | None) -> dict[str, float]:
    """AUC, accuracy and F1 of x, y and both; a threshold of None takes the best one."""
    truth = np.array([(*item.tiles, all(item.tiles)) for item in found])
    out: dict[str, float] = {}
    for column, name in enumerate(("x", "y", "both")):
        score, good = scores[:, column], truth[:, column]
        accuracy, f1 = best_rates(score, good) if threshold is None else rates(score, good, threshold)
        out |= {f"auc {name}": auc(score[~good], score[good]), f"accuracy {name}": accuracy, f"f1 {name}": f1}
    return out


def sweeps(sources: Sequence[tuple[str, Path]]) -> tuple[float, float]:
    """Range of the joint score over sizes 64 to 2048, the mean over tiles, and over rolls, the worst of all tiles."""
    import torch
    from tqdm import tqdm

    from textile_metric import tileability
    from training.images import open_image, resize, to_rgb

    def joint(image: NDArray[np.float32]) -> float:
        pixels = np.clip(np.rint(image), 0, 255).astype(np.uint8).transpose(2, 0, 1)
        with torch.no_grad():
            return float(tileability(torch.from_numpy(np.ascontiguousarray(pixels))))

    sized, rolled = [], []
    for _, path in tqdm(sources, unit="tile"):
        tile = to_rgb(open_image(path)).astype(np.float32)
        over = [joint(resize(tile, (s, s), wrap_x=True, wrap_y=True)) for s in (64, 128, 256, 512, 1024, 2048)]
        sized.append(max(over) - min(over))
        base = resize(tile, (256, 256), wrap_x=True, wrap_y=True)
        moved = [joint(np.roll(base, shift, (0, 1))) for shift in ((0, 0), (128, 128), (3, 77), (101, 1), (64, 200))]
        rolled.append(max(moved) - min(moved))
    return float(np.mean(sized)), float(np.max(rolled))


def write_sheet(found: Sequence[Item], scores: Doubles, path: Path, count: int = 40) -> None:
    """The items whose verdict is wrong, the surest first, rolled by half so that the border is in the middle."""
    from PIL import Image, ImageDraw

    truth = np.array([item.tiles for item in found])
    wrong = np.where(truth, 1 - scores[:, :2], scores[:, :2]).max(1)
    order = [i for i in np.argsort(-wrong)[:count] if wrong[i] > 0.5]
    side, wide = 180, 8
    sheet = Image.new("RGB", (wide * side, -(-len(order) // wide) * (side + 26)), "white")
    pen = ImageDraw.Draw(sheet)
    for place, i in enumerate(order):
        item = found[i]
        image = np.roll(item.image, (item.image.shape[0] // 2, item.image.shape[1] // 2), (0, 1))
        left, top = place % wide * side, place // wide * (side + 26)
        sheet.paste(Image.fromarray(image).resize((side - 4, side - 4), Image.Resampling.LANCZOS), (left, top + 24))
        said = f"x {scores[i, 0]:.2f} y {scores[i, 1]:.2f}, true {int(item.tiles[0])} {int(item.tiles[1])}"
        pen.text((left, top), f"{item.kind} {item.image.shape[1]}\n{said}", fill="black")
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def attacks(sources: Sequence[tuple[str, Path]], args: argparse.Namespace) -> list[Figure]:
    """What gradient ascent on this network does, and what comes over from that on others."""
    found = attack.targets(sources, args.attack, args.seed)
    images = [item.image for item in found]
    attacked = {"this network": attack.attack(images, args.attack_steps)}
    if args.second:
        attacked["the second network"] = attack.attack_other(images, args.attack_steps, args.second)
    if args.official:
        attacked["the published network"] = attack.attack_official(images, args.attack_steps, args.official)
    return attack.figures(found, attacked, ours)


def compared(found: Sequence[Item], args: argparse.Namespace) -> tuple[list[Figure], dict[str, dict[str, float]]]:
    """Every score on the same items: the figures of ours, and all tables, which are also printed."""
    started = time.perf_counter()
    scores = judged(found, ours)
    seconds = (time.perf_counter() - started) / len(found)
    rivals = dict(RIVALS) | ({"official TexTile": official(args.official)} if args.official else {})
    tables: dict[str, dict[str, float]] = {}
    for name, rival in rivals.items():
        theirs = judged(found, rival)
        tables[name] = summary(found, theirs, None) | by_kind(found, theirs)
    mine, kinds = summary(found, scores, 0.5), by_kind(found, scores)
    tables["zellige"] = mine | kinds
    for name, values in tables.items():
        print(f"\n{name}")
        print(table([Figure(name=key, value=value) for key, value in values.items()]))
    best = {kind: max(tables[name][kind] for name in rivals) for kind in NEGATIVES}
    truth = np.array([all(item.tiles) for item in found])
    bars = {"auc": 0.985, "accuracy": 0.95, "f1": 0.95}
    figures = [Figure(name="items", value=len(found)), Figure(name="seconds per item", value=seconds)]
    figures += [Figure(name=n, value=v, bar=bars[n.split()[0]], relation=">=") for n, v in mine.items()]
    figures += [Figure(name=f"auc {n}", value=v, bar=0.96, relation=">=") for n, v in kinds.items()]
    for kind in NEGATIVES:
        bar = 0.05 if kind in HARD else 0.0
        figures.append(Figure(name=f"lead on {kind}", value=kinds[kind] - best[kind], bar=bar, relation=">="))
    joint = scores[:, 0] * scores[:, 1]
    figures.append(Figure(name="calibration error", value=calibration_error(joint, truth), bar=0.03))
    if args.sheet:
        write_sheet(found, scores, args.sheet)
    return figures, tables


def evenly(sources: Sequence[tuple[str, Path]], count: int | None) -> list[tuple[str, Path]]:
    """`count` of the sources, spread over their list, which is sorted by package; None is all."""
    if count is None or count >= len(sources):
        return list(sources)
    return [sources[i * len(sources) // count] for i in range(count)]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the unpacked packages")
    parser.add_argument("--official", type=Path, help="TexTile's model.safetensors")
    parser.add_argument("--limit", type=int, help="only so many of the checked tiles, evenly spread")
    parser.add_argument("--largest", type=int, default=max(SIZES), help="largest side of the items (%(default)s)")
    parser.add_argument("--no-items", action="store_true", help="sweeps and attacks alone")
    parser.add_argument("--sweep", type=int, default=24, help="tiles for the sweeps over sizes and rolls; 0: none")
    parser.add_argument("--attack", metavar="N", type=int, default=0, help="gradient ascent on N non-tiles")
    parser.add_argument("--attack-steps", type=int, default=100, help="steps of it (%(default)s)")
    parser.add_argument(
        "--second", type=Path, metavar="FOLDER",
        help="checkout with another version of textile_metric, whose attacks are tried on this one",
    )  # fmt: skip
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="write the wrong verdicts as a picture here")
    parser.add_argument("--seed", type=int, default=0)
    add_json(parser)
    args = parser.parse_args()
    sources = evenly(read_positives(args.data), args.limit)
    figures: list[Figure] = []
    details: dict[str, Any] = {"seed": args.seed}
    if not args.no_items:
        sizes = [size for size in SIZES if size <= args.largest]
        made, details["tables"] = compared(list(items(sources, args.seed, sizes)), args)
        figures += made
    if args.sweep:
        moved_size, moved_roll = sweeps(evenly(sources, args.sweep))
        figures.append(Figure(name="move over sizes, mean", value=moved_size, bar=0.05))
        figures.append(Figure(name="move over rolls, worst", value=moved_roll, bar=0.01))
    if args.attack:
        figures += attacks(sources, args)
    print()
    return finish("tileability", figures, args.json, details)


if __name__ == "__main__":
    raise SystemExit(main())
