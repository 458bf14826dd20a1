"""What the tileability network's two parts say of the benchmark's kinds of items, kept so that refitting costs nothing.

The items come from `benchmarks.tileability_items`: made once, like the benchmark's own, and free of the trainer's
augmentations.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.tileability_items import SIZES, Item, items
from textile_metric.network import TileNet
from training import manifest
from training.images import open_image, resize, to_rgb
from training.loop import say
from training.pack import Pack

Named = tuple[str, Path]


@dataclass(frozen=True)
class Opinions:
    """Of N items: profiles and judged (N, 2) float64, the seam logits of x and y; tiles (N, 2) bool; side (N,) pixels;
    kind and source (N,) names."""

    profiles: NDArray[np.float64]
    judged: NDArray[np.float64]
    tiles: NDArray[np.bool_]
    side: NDArray[np.int64]
    kind: NDArray[np.str_]
    source: NDArray[np.str_]

    def part(self, chosen: NDArray[np.bool_]) -> Opinions:
        return Opinions(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})


def listed(data: Path, lists: Path = Path(__file__).parent) -> list[tuple[int, Named]]:
    """(cluster of near-duplicates, (name, file)) of the training split's textures that are listed as tiling on both
    axes, below the folder of unpacked packages."""
    rows = manifest.read_list(lists / "textures.csv")
    found = [s for s in manifest.from_list(rows, data) if s.split == "train" and s.tiles_x and s.tiles_y]
    return [(s.dup_cluster, (s.path, s.basecolor)) for s in found if s.basecolor.is_file()]


def packed(packs: Path, folder: Path) -> list[tuple[int, Named]]:
    """`listed`, of a pack, whose images are written below `folder`. Packs hold smaller, compressed ones."""
    pack, found = Pack(packs), []
    folder.mkdir(parents=True, exist_ok=True)
    for i in pack.split("train"):
        row = pack.row(i)
        if row["tiles_x"] and row["tiles_y"]:
            file = folder / f"{row['id']}.webp"
            file.write_bytes(pack.blob(i, "basecolor"))
            found.append((row["dup_cluster"], (row["path"], file)))
    return found


def spread(found: Sequence[tuple[int, Named]], count: int) -> list[Named]:
    """`count` sources, one of each cluster, evenly spread over the list, which is sorted by package."""
    first: dict[int, Named] = {}
    for cluster, source in found:
        first.setdefault(cluster, source)
    one = list(first.values())
    return one if count >= len(one) else [one[i * len(one) // count] for i in range(count)]


@torch.no_grad()
def believed(net: TileNet, sources: Sequence[Named], least: float, largest: int) -> list[Named]:
    """Those which, whole, the network gives a probability of at least `least` on both axes."""
    kept = []
    for name, path in sources:
        tile = to_rgb(open_image(path)).astype(np.float32)
        side = min(largest, *tile.shape[:2])
        whole = np.clip(np.rint(resize(tile, (side, side), wrap_x=True, wrap_y=True)), 0, 255).astype(np.uint8)
        logits = net(_tensor(whole))
        if float(torch.minimum(logits.x, logits.y).sigmoid()) >= least:
            kept.append((name, path))
    return kept


@torch.no_grad()
def opinions(net: TileNet, found: Iterable[Item]) -> Opinions:
    """One by one, as the score does it."""
    profiles, judged, rest = [], [], []
    for item in found:
        said = net(_tensor(item.image))
        profiles.append([float(said.columns.logsumexp(1)), float(said.rows.logsumexp(1))])
        judged.append(said.judged[0].tolist())
        rest.append((item.tiles, item.image.shape[1], item.kind, item.source))
    if not rest:
        raise ValueError("Expected at least one item, but got none")
    tiles, side, kind, source = (np.array(column) for column in zip(*rest, strict=True))
    return Opinions(np.array(profiles), np.array(judged), tiles, side, kind, source)


def gathered(
    net: TileNet, sources: Sequence[Named], largest: int, seed: int, cache: Path | None = None, *, least: float = 0.0
) -> Opinions:
    """Opinions of every kind of item of the sources up to `largest` pixels, from `cache` where they are in it already.

    Raises ValueError where no item can be made.
    """
    key = _key(net, sources, largest, seed, least)
    if cache is not None and cache.is_file():
        with np.load(cache) as stored:
            if str(stored["key"]) == key:
                return Opinions(**{name: stored[name] for name in stored.files if name != "key"})
    kept = believed(net, sources, least, largest) if least > 0 else list(sources)
    say(f"{len(kept)} of {len(sources)} sources are taken")
    found = opinions(net, items(kept, seed, [size for size in SIZES if size <= largest]))
    if cache is not None:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with cache.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, key=np.array(key), **asdict(found))
    return found


def _tensor(image: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None].float() / 255


def _key(net: TileNet, sources: Sequence[Named], *more: Any) -> str:
    """Of all that opinions depend on; the calibration only counts where sources are chosen by it."""
    digest = hashlib.sha256(repr(([name for name, _ in sources], more)).encode())
    for name, value in net.state_dict().items():
        if name != "calibration" or more[-1] > 0:
            digest.update(value.numpy().tobytes())
    return digest.hexdigest()
