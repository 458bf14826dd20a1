"""What a result needs in memory and on the disk, against what there is."""

from __future__ import annotations

from asd.host_memory import available_memory as available_memory

BYTES_PER_PIXEL = 1600
"""Peak resident bytes per pixel of the result, nearly all of it the decoder's activations (measured: 1,480)."""
BASE_BYTES = 1_000_000_000
"""torch, the text encoder and the networks before the first pixel."""
GUIDED_BYTES_PER_PIXEL = 9500
"""As above for a guided material: what the decoder and the score keep for the gradient (measured at 256x256: 8,800)."""
REFINED_BYTES_PER_PIXEL = 450
"""Of a refined material, whose networks work in tiles: maps, fields and a tile's activations (measured at 2K: 420)."""
MAPS_BASE_BYTES = 1_600_000_000
"""torch, the text encoder, and the autoencoder on a photo at the size that it reads."""
MAPS_BYTES_PER_PIXEL = 300
"""Peak resident bytes per pixel, nearly all of it the mirrored fields of the Poisson equation (measured: 265)."""
PHOTO_BYTES_PER_PIXEL = 80
"""Of the photo itself, and of the overlaps that are compared to make it tile."""
DISK_BYTES_PER_PIXEL = 32
"""Uncompressed upper bound: six maps, a 16-bit or float height, the preview and the 2x2 preview at 4 x 3 bytes."""
DISK_BASE_BYTES = 2_000_000
"""The rendered preview and the text of one sample."""


PICTURE_BYTES_PER_PIXEL = 140
"""As above for pictures, whose decoder works in tiles: the float image and what copies of it the last steps make."""
UPSCALE_BYTES_PER_PIXEL = 16
"""As above for enlargements, whose pixels are in files: the latents, and what a scheduler keeps of them."""


def memory_estimate(size: tuple[int, int], kind: str = "material") -> int:
    """Peak resident bytes of making one result of (width, height) pixels with the shipped model.

    `kind` is a request's, or "guided" for a guided material.
    """
    kinds = {"image": PICTURE_BYTES_PER_PIXEL, "upscale": UPSCALE_BYTES_PER_PIXEL, "guided": GUIDED_BYTES_PER_PIXEL}
    return BASE_BYTES + kinds.get(kind, BYTES_PER_PIXEL) * size[0] * size[1]


def refined_memory_estimate(size: tuple[int, int], base: tuple[int, int], kind: str = "material") -> int:
    """As `memory_estimate` of a material of (width, height) pixels that is refined from one of `base` pixels."""
    return max(memory_estimate(base, kind), BASE_BYTES + REFINED_BYTES_PER_PIXEL * size[0] * size[1])


def maps_memory_estimate(photo: tuple[int, int], size: tuple[int, int]) -> int:
    """Peak resident bytes of making maps of (width, height) pixels from a photo of (width, height) pixels."""
    return MAPS_BASE_BYTES + PHOTO_BYTES_PER_PIXEL * photo[0] * photo[1] + MAPS_BYTES_PER_PIXEL * size[0] * size[1]


def disk_estimate(size: tuple[int, int], count: int) -> int:
    """Bytes that `count` results of (width, height) pixels take at most."""
    return count * (DISK_BASE_BYTES + DISK_BYTES_PER_PIXEL * size[0] * size[1])


def human(count: int) -> str:
    """Bytes for a person.

    >>> human(2_500_000_000), human(1 << 60), human(999)
    ('2.5 GB', '1152.9 PB', '0.0 MB')
    """
    for unit, power in (("PB", 15), ("TB", 12), ("GB", 9)):
        if count >= 10**power:
            return f"{count / 10**power:.1f} {unit}"
    return f"{count / 1e6:.1f} MB"
