"""Fit the tileability network's calibration on items like those of the benchmark, but of training textures.

    python -m training.calibrate --data ROOT | --packs DIR --weights FILE --out FILE [--opinions FILE.npz]
    python -m training.calibrate --data ROOT --checked --weights FILE [--opinions FILE.npz]

ROOT holds the unpacked packages, DIR a pack. The items are those of `benchmarks.tileability_items`, of one texture of
each cluster of near-duplicates in the training split. The list's marks of what tiles are about 90 % right, so that
sources are left out which the network itself gives, whole, less than `--trust` on either axis: what it is most wrong
about is left out with them. `--opinions` keeps what the network's two parts say of the items, after which fitting
again costs nothing. The figures are of each half of the sources under the calibration that the other half gives.

`--checked` fits and writes nothing: it gives the figures of FILE on the benchmark's own checked validation textures.

On 1,184 items of 143 sources (2026-11-24), ten splits into halves: counting every axis of every item alike, as most
items don't tile, left an expected calibration error of 0.096; items that tile and that don't counting alike, 0.043.
Offsets and slopes by size, saturation, a product or minimum of the opinions and the other axis's took at most 0.002 off
that, and 0.005 off log loss.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from benchmarks.table import Figure, add_json, finish
from benchmarks.tileability import Doubles, calibration_error, rates
from benchmarks.tileability_items import read_positives
from textile_metric.network import TileNet
from training.curve import auc
from training.opinions import Opinions, gathered, listed, packed, spread
from training.tileability import fit

Calibration = tuple[float, float, float]
"""`TileNet.calibration`: offset, weight of the profiles, weight of the judge."""
SEED = 1000
"""Of the items; the benchmark's is 0."""


def shares(tiles: NDArray[np.bool_]) -> Doubles:
    """(N,) with mean 1: items that tile on both axes count as much together as all others."""
    both = tiles[:, 0] & tiles[:, 1]
    if both.all() or not both.any():
        raise ValueError(f"Expected items that tile and items that don't, but got {both.sum()} of {len(both)} that do")
    return np.where(both, 0.5 / both.sum(), 0.5 / (~both).sum()) * len(both)


def fitted(found: Opinions) -> Calibration:
    """The likeliest calibration. Both axes of an item have its share; raises ValueError where one truth is missing."""
    opinion = -np.stack([found.profiles, found.judged], -1).reshape(-1, 2)
    share = shares(found.tiles).repeat(2)
    tensors = [torch.from_numpy(values).float() for values in (opinion, found.tiles.reshape(-1), share)]
    (profiles, judge), offset = fit(*tensors)
    return offset, profiles, judge


def probabilities(found: Opinions, calibration: Calibration) -> Doubles:
    """(N, 2) of x and y: as `TileNet.verdict`."""
    offset, profiles, judge = calibration
    return 1 / (1 + np.exp(-(offset - profiles * found.profiles - judge * found.judged)))


def crossed(found: Opinions) -> Doubles:
    """`probabilities` of each half of the sources, every second one, under the calibration of the other half."""
    second = np.unique(found.source, return_inverse=True)[1] % 2 == 1
    out = np.empty(found.tiles.shape)
    for half in (second, ~second):
        out[half] = probabilities(found.part(half), fitted(found.part(~half)))
    return out


def log_loss(axes: Doubles, tiles: NDArray[np.bool_]) -> float:
    """Of the axes, in nats, in the same shares as they are fitted in."""
    loss = -np.log(np.clip(np.where(tiles, axes, 1 - axes), 1e-12, 1))
    return float((loss.mean(1) * shares(tiles)).mean())


def figures(axes: Doubles, tiles: NDArray[np.bool_], name: str) -> list[Figure]:
    """Log loss, and as the benchmark has them: AUC and accuracy of x, y and the worse of the two, calibration errors
    of x, y and the product of the two."""
    out = [Figure(name=f"{name}: log loss", value=log_loss(axes, tiles))]
    for axis, score, chance, truth in (
        ("x", axes[:, 0], axes[:, 0], tiles[:, 0]),
        ("y", axes[:, 1], axes[:, 1], tiles[:, 1]),
        ("both", axes.min(1), axes.prod(1), tiles[:, 0] & tiles[:, 1]),
    ):
        out += [
            Figure(name=f"{name}: auc {axis}", value=auc(score[~truth], score[truth])),
            Figure(name=f"{name}: accuracy {axis}", value=rates(score, truth, 0.5)[0]),
            Figure(name=f"{name}: calibration error {axis}", value=calibration_error(chance, truth)),
        ]
    return out


def opinions_of(net: TileNet, args: argparse.Namespace) -> Opinions:
    """Those that the arguments ask for."""
    if args.checked:
        return gathered(net, read_positives(args.data)[: args.count], args.largest, 0, args.opinions)
    with tempfile.TemporaryDirectory() as folder:
        found = listed(args.data) if args.data else packed(args.packs, Path(folder))
        sources = spread(found, args.count or 150)
        return gathered(net, sources, args.largest, SEED, args.opinions, least=args.trust)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--data", type=Path, help="folder of the unpacked packages")
    place.add_argument("--packs", type=Path, help="pack, whose images are smaller and compressed")
    parser.add_argument("--weights", type=Path, required=True, help="safetensors file of the network")
    parser.add_argument("--out", type=Path, help="the same with the calibration that was found")
    parser.add_argument("--checked", action="store_true", help="measure on the benchmark's textures, fit nothing")
    parser.add_argument("--opinions", type=Path, metavar="NPZ", help="keep opinions here, take them from here")
    parser.add_argument("--count", type=int, help="sources at most (150; with --checked, all)")
    parser.add_argument("--largest", type=int, default=512, help="largest side of the items (%(default)s)")
    parser.add_argument("--trust", type=float, default=0.15, help="leave out sources given less (%(default)s)")
    add_json(parser)
    args = parser.parse_args()
    if args.checked and args.data is None:
        parser.error("--checked needs --data")
    if args.checked == (args.out is not None):
        parser.error("expected either --out or --checked")
    state = load_file(args.weights)
    net = TileNet().eval()
    net.load_state_dict({name: value.float() for name, value in state.items()})
    offset, profiles, judge = net.calibration.tolist()
    found = opinions_of(net, args)
    made = [Figure(name="items", value=len(found.side))]
    made += figures(probabilities(found, (offset, profiles, judge)), found.tiles, "as it was" if args.out else "now")
    details: dict[str, object] = {"calibration": [offset, profiles, judge]}
    if args.out:
        calibration = fitted(found)
        made += figures(crossed(found), found.tiles, "other half's")
        made += [Figure(name=n, value=v) for n, v in zip(("offset", "profiles", "judge"), calibration, strict=True)]
        details = {"calibration": list(calibration)}
        stored = torch.tensor(calibration, dtype=state["calibration"].dtype)
        save_file(state | {"calibration": stored}, args.out)
    return finish("calibrate", made, args.json, details)


if __name__ == "__main__":
    raise SystemExit(main())
