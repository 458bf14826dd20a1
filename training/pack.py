"""The pack: a compact, memory-mapped store of training images with their maps, captions and splits.

Layout of a pack folder, format 1:

- `shard-000.safetensors`, ...: uint8 vectors named `ID.basecolor` and `ID.maps`, each a WebP file. `maps` is one grey
  image with the map channels as panels, in the order of the row's `panels`, placed along the shorter side's axis (side
  by side unless the image is wider than high). Grey keeps WebP's coarser chroma away from the values. Normal X and Y
  are stored as `128 + 127 n` (OpenGL), everything else as `255 v`.
- `index.json`: `format`, `settings`, `fingerprint`, `complete`, `shards` (file, bytes, sha256, rows) and `rows` (id,
  path, caption, class, split, dup_cluster, tiles_x, tiles_y, licence, colours, tone, size_m, width, height, map_width,
  map_height, panels, dropped, shard).
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from . import captions, images
from .images import ByteArray, FloatArray
from .manifest import Decoded, Source, decode

FORMAT = 1
# Raised when the same sources would be encoded differently, so that an older pack is not gone on with.
_RECIPE = 3
INDEX = "index.json"
Row = dict[str, Any]
_BOUNDS = {"size": (16, 3072), "map_size": (16, 3072), "quality": (1, 100), "map_quality": (1, 100)}
_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True)
class Settings:
    """How a pack is encoded: short sides in pixels, WebP qualities in [1, 100] (100: lossless maps), bytes a shard."""

    size: int = 512
    quality: int = 85
    map_size: int = 512
    map_quality: int = 95
    shard_bytes: int = 27 * 2**20

    def __post_init__(self) -> None:
        for name, (low, high) in _BOUNDS.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"Expected {name} from {low} to {high}, but got {getattr(self, name)}")
        if self.shard_bytes < 2**10:
            raise ValueError(f"Expected shard_bytes of at least 1024, but got {self.shard_bytes}")


def _webp(image: Image.Image, quality: int, *, lossless: bool = False) -> ByteArray:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=4, lossless=lossless)
    return np.frombuffer(buffer.getvalue(), dtype=np.uint8)


def _panels(maps: dict[str, FloatArray]) -> dict[str, ByteArray]:
    """Grey channels of maps, quantised to 8 bits."""
    out: dict[str, ByteArray] = {}
    for name, values in maps.items():
        if name == "normal":
            for axis, label in enumerate(("normal_x", "normal_y")):
                out[label] = np.rint(128 + 127 * np.clip(values[..., axis], -1, 1)).astype(np.uint8)
        else:
            out[name] = np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)
    return out


def encode(source: Source, decoded: Decoded, settings: Settings) -> tuple[Row, dict[str, ByteArray]]:
    """Row metadata and the encoded blobs of one decoded source."""
    height, width = decoded.basecolor.shape[:2]
    blobs = {f"{source.id}.basecolor": _webp(Image.fromarray(decoded.basecolor), settings.quality)}
    panels = _panels(decoded.maps)
    map_width = map_height = 0
    if panels:
        map_height, map_width = next(iter(panels.values())).shape
        strip = np.concatenate(list(panels.values()), axis=0 if map_width > map_height else 1)
        lossless = settings.map_quality == 100
        blobs[f"{source.id}.maps"] = _webp(Image.fromarray(strip), settings.map_quality, lossless=lossless)
    row: Row = {
        "id": source.id,
        "path": source.path,
        "caption": source.caption,
        "class": source.class_name,
        "split": source.split,
        "dup_cluster": source.dup_cluster,
        "tiles_x": source.tiles_x,
        "tiles_y": source.tiles_y,
        "licence": source.licence,
        "colours": captions.colour_words(decoded.basecolor),
        "tone": captions.tone_words(decoded.basecolor),
        "size_m": source.size_m,
        "width": width,
        "height": height,
        "map_width": map_width,
        "map_height": map_height,
        "panels": list(panels),
        "dropped": decoded.dropped,
    }
    return row, blobs


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _write_index(folder: Path, index: dict[str, Any]) -> None:
    part = folder / (INDEX + ".tmp")
    part.write_text(json.dumps(index, separators=(",", ":")), encoding="utf-8")
    os.replace(part, folder / INDEX)


def _finished(folder: Path, fingerprint: str) -> dict[str, Any]:
    """The index of an earlier run of the same job, cut down to its undamaged leading shards; else an empty one."""
    empty: dict[str, Any] = {"format": FORMAT, "fingerprint": fingerprint, "complete": False, "shards": [], "rows": []}
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        if index["format"] != FORMAT or index["fingerprint"] != fingerprint:
            return empty
        good = []
        for shard in index["shards"]:
            if _sha256(folder / shard["file"]) != shard["sha256"]:
                break
            good.append(shard)
        return empty | {"shards": good, "rows": index["rows"][: sum(s["rows"] for s in good)]}
    except (OSError, ValueError, KeyError, TypeError):
        return empty


def _fingerprint(sources: Sequence[Source], settings: Settings) -> str:
    facts = [{k: str(v) for k, v in asdict(s).items() if not isinstance(v, Path)} for s in sources]
    return hashlib.sha256(json.dumps([FORMAT, _RECIPE, asdict(settings), facts], sort_keys=True).encode()).hexdigest()


def is_finished(sources: Sequence[Source], folder: Path, settings: Settings) -> bool:
    """Whether `folder` already holds the undamaged pack of these sources under these settings."""
    return len(_finished(folder, _fingerprint(sources, settings))["rows"]) == len(sources)


def write_pack(
    sources: Sequence[Source],
    folder: Path,
    settings: Settings | None = None,
    *,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write the pack of `sources` into `folder` and return its index.

    An interrupted run goes on after the last shard whose hash is right; a finished pack is left as it is. Shards and
    the index are written beside and renamed. progress(done, total) is called after every shard. Raises ValueError for
    unreadable images and for ids that are not unique.
    """
    settings = settings or Settings()
    if not sources or len({source.id for source in sources}) != len(sources):
        raise ValueError(f"Expected at least one source and unique ids, but got {len(sources)} sources")
    folder.mkdir(parents=True, exist_ok=True)
    index: dict[str, Any] = _finished(folder, _fingerprint(sources, settings)) | dict[str, Any](
        settings=asdict(settings)
    )
    done = len(index["rows"])

    def make(source: Source) -> tuple[Row, dict[str, ByteArray]]:
        return encode(source, decode(source, settings.size, settings.map_size), settings)

    with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
        made = _mapped(pool, make, sources[done:])
        for rows, blobs in _grouped(made, settings.shard_bytes):
            name = f"shard-{len(index['shards']):03d}.safetensors"
            part = folder / (name + ".tmp")
            part.write_bytes(save(blobs, metadata={"format": f"zellige-pack/{FORMAT}"}))
            digest, size = _sha256(part), part.stat().st_size
            os.replace(part, folder / name)
            index["shards"].append({"file": name, "bytes": size, "sha256": digest, "rows": len(rows)})
            index["rows"] += [row | {"shard": name} for row in rows]
            _write_index(folder, index)
            if progress:
                progress(len(index["rows"]), len(sources))
    index["complete"] = True
    _write_index(folder, index)
    kept = {shard["file"] for shard in index["shards"]}
    for stale in (*folder.glob("shard-*.safetensors"), *folder.glob("shard-*.safetensors.tmp")):
        if stale.name not in kept:
            stale.unlink()
    return index


def _mapped(pool: ThreadPoolExecutor, make: Callable[[_T], _R], items: Iterable[_T]) -> Iterator[_R]:
    """pool.map in order with a bounded number of results in memory."""
    rest = iter(items)
    while chunk := list(islice(rest, 32)):
        yield from pool.map(make, chunk)


def _grouped(
    made: Iterable[tuple[Row, dict[str, ByteArray]]], limit: int
) -> Iterator[tuple[list[Row], dict[str, ByteArray]]]:
    """Rows and blobs gathered into shards of at most `limit` bytes, header included (one item may exceed it)."""
    rows: list[Row] = []
    blobs: dict[str, ByteArray] = {}
    size = 0
    for row, parts in made:
        cost = sum(part.size + 120 for part in parts.values())
        if rows and size + cost > limit - 256:
            yield rows, blobs
            rows, blobs, size = [], {}, 0
        rows.append(row)
        blobs |= parts
        size += cost
    if rows:
        yield rows, blobs


class Pack:
    """Reader of a pack folder; safe to share between threads.

    Raises ValueError when the index is missing, damaged or unfinished, or a shard is missing or has the wrong size.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            index = json.loads((self.path / INDEX).read_text(encoding="utf-8"))
            self.settings, self.shards, self.rows = index["settings"], index["shards"], index["rows"]
            if index["format"] != FORMAT or not index["complete"]:
                raise ValueError("an unfinished pack or another format")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"Expected a finished pack in {self.path}, but got: {error}") from error
        for shard in self.shards:
            file = self.path / shard["file"]
            size = file.stat().st_size if file.is_file() else 0
            if size != shard["bytes"]:
                raise ValueError(f"Expected {shard['bytes']} bytes in {file}, but got {size}")
        self._open: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, i: int) -> Row:
        """Metadata of one material (see the module's text for the fields)."""
        return self.rows[i]

    def split(self, name: str) -> list[int]:
        """Indices of a split, "train" or "val"."""
        return [i for i, row in enumerate(self.rows) if row["split"] == name]

    def verify(self) -> None:
        """Compare every shard's SHA-256 with the index; raises ValueError for a damaged one."""
        for shard in self.shards:
            if _sha256(self.path / shard["file"]) != shard["sha256"]:
                raise ValueError(f"Expected the recorded SHA-256 of {self.path / shard['file']}, but got damaged data")

    def blob(self, i: int, kind: str) -> bytes:
        """A material's file as it was packed: "basecolor" (WebP), and "maps" where it has panels."""
        return self._blob(self.rows[i], kind)

    def _blob(self, row: Row, kind: str) -> bytes:
        name = row["shard"]
        try:
            if name not in self._open:
                self._open[name] = safe_open(self.path / name, framework="numpy")
            return self._open[name].get_tensor(f"{row['id']}.{kind}").tobytes()
        except (OSError, SafetensorError) as error:
            raise ValueError(f"Expected {row['id']}.{kind} in {self.path / name}, but got: {error}") from error

    def load(self, i: int, *, maps: bool = True) -> dict[str, Any]:
        """Decode one material.

        basecolor (H, W, 3) uint8 sRGB; with maps also, where the row has them: normal (h, w, 3) float32 unit vectors
        (OpenGL), height, roughness, metallic (h, w) float32 in [0, 1]. Maps may be smaller than basecolor.
        """
        row = self.rows[i]
        out: dict[str, Any] = {"basecolor": images.to_rgb(images.open_image(self._blob(row, "basecolor")))}
        if not maps or not row["panels"]:
            return out
        strip = np.asarray(images.open_image(self._blob(row, "maps")).convert("RGB"))[..., 1]
        parts = np.split(strip, len(row["panels"]), axis=0 if row["map_width"] > row["map_height"] else 1)
        channels = dict(zip(row["panels"], parts, strict=True))
        if "normal_x" in channels:
            x, y = ((channels.pop(k).astype(np.float32) - 128) / 127 for k in ("normal_x", "normal_y"))
            z = np.sqrt(np.clip(1 - x * x - y * y, 0, 1))
            out["normal"] = images.unit(np.stack([x, y, z], axis=-1).astype(np.float32))
        return out | {name: part.astype(np.float32) / 255 for name, part in channels.items()}

    def load_many(self, indices: Iterable[int], *, workers: int = 4, maps: bool = True) -> list[dict[str, Any]]:
        """`load` for many indices in a thread pool, in their order."""
        with ThreadPoolExecutor(max(1, workers)) as pool:
            return list(pool.map(lambda i: self.load(i, maps=maps), indices))
