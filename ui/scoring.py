"""Image files to tileability scores: what `zellige score` prints and an API would answer."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asd.errors import ZelligeError

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".tga", ".dds", ".avif")
"""Of the files that are looked for in a folder; a file that is named is scored whatever it is called."""
EVEN = 0.5


@dataclass(frozen=True, kw_only=True)
class ImageScore:
    """Scores of one file: probabilities that x, y and both tile, and the seam ratios."""

    path: Path
    width: int
    height: int
    both: float
    x: float
    y: float
    seam_x: float
    seam_y: float

    @property
    def verdict(self) -> str:
        """
        >>> ImageScore(path=Path("a.png"), width=8, height=8, both=0.1, x=0.1, y=0.9, seam_x=3.0, seam_y=1.0).verdict
        'seam on x'
        """
        broken = [axis for axis, value in (("x", self.x), ("y", self.y)) if value < EVEN]
        return f"seam on {' and '.join(broken)}" if broken else "tiles"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        values = {key: round(value, 4) if isinstance(value, float) else value for key, value in asdict(self).items()}
        return values | {"path": str(self.path), "verdict": self.verdict}


@dataclass(frozen=True, kw_only=True)
class BadFile:
    """A file that has no score, and why in one sentence."""

    path: Path
    reason: str


def expand(places: Sequence[str]) -> list[Path]:
    """Files, the images of folders at any depth, and globs, in that order and sorted within each; each file once.

    Raises ZelligeError for a place that is none of them or where there is no image.
    """
    found: dict[Path, None] = {}
    for place in places:
        path = Path(place)
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        elif path.exists():
            inside = [path]
        else:
            inside = [Path(match) for match in sorted(glob.glob(place, recursive=True)) if Path(match).is_file()]
        if not inside:
            kind = (
                "a folder with images in it"
                if path.is_dir()
                else "an image file, a folder or a pattern that matches one"
            )
            raise ZelligeError(f"Expected {kind}, but got {place}")
        found.update(dict.fromkeys(inside))
    return list(found)


def score_file(path: Path) -> ImageScore | BadFile:
    """Scores of one image file; a file that cannot be read is a `BadFile`, never an exception."""
    from textile_metric.images import as_images

    try:
        image = as_images(path)
    except ValueError as error:
        return BadFile(path=path, reason=str(error).rstrip("."))
    except (MemoryError, RuntimeError) as error:
        return _too_large(path, error)
    return score_image(image, path)


def score_image(image: Tensor, path: Path = Path()) -> ImageScore | BadFile:
    """Scores of one image (1, 3, H, W) in [0, 1], as that of the file `path`."""
    import torch

    from textile_metric import seam_ratio
    from textile_metric.score import axis_scores

    try:
        with torch.no_grad():
            x, y = axis_scores(image)[0].tolist()
        seam_x, seam_y = (float(value) for value in seam_ratio(image)[0])
    except ValueError as error:
        return BadFile(path=path, reason=str(error).rstrip("."))
    except (MemoryError, RuntimeError) as error:
        return _too_large(path, error)
    height, width = image.shape[2:]
    return ImageScore(path=path, width=width, height=height, both=x * y, x=x, y=y, seam_x=seam_x, seam_y=seam_y)


def _too_large(path: Path, error: Exception) -> BadFile:
    return BadFile(path=path, reason=f"Expected enough memory for this image, but got: {error}"[:300])


def overlay(path: Path, out: Path) -> Path:
    """Write the image with its seams in red to `out`."""
    import numpy as np
    import torch

    from materials.png import write_png
    from textile_metric import seam_map
    from textile_metric.images import as_images

    image = as_images(path)
    seams = seam_map(image)[0]
    grey = image[0].mean(0, keepdim=True) * 0.6 + 0.1
    red = torch.tensor([1.0, 0.1, 0.1]).view(3, 1, 1)
    mixed = grey * (1 - seams) + red * seams
    return write_png(out, (mixed * 255).round().clamp(0, 255).to(torch.uint8).numpy().astype(np.uint8), colour="srgb")


def overlay_names(paths: Iterable[Path]) -> dict[Path, str]:
    """One file name per path, from its own name; a number tells those apart that share it.

    >>> list(overlay_names([Path("a/wall.png"), Path("b/wall.jpg"), Path("oak.png")]).values())
    ['wall.seams.png', 'wall-2.seams.png', 'oak.seams.png']
    """
    names: dict[Path, str] = {}
    used: dict[str, int] = {}
    for path in paths:
        count = used[path.stem] = used.get(path.stem, 0) + 1
        names[path] = f"{path.stem}.seams.png" if count == 1 else f"{path.stem}-{count}.seams.png"
    return names
