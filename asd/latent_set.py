"""Latents of a folder's views, encoded once, in batches of one size each."""

from __future__ import annotations

import json
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .canvas_file import replacing
from .errors import CheckpointError, ZelligeError
from .image_folder import Captioned, read_image
from .seamless import SeamlessAxes
from .sizes import Size
from .tunable import Tunable
from .views import Crop, View, cut, plan_views

HALF = 60_000.0
"""Latents beyond this don't fit in half precision."""
AHEAD = 8
"""Images read before they are encoded."""


class Kind(NamedTuple):
    """What one batch has in common."""

    size: Size
    axes: SeamlessAxes

    def __str__(self) -> str:
        return f"{self.size.width}x{self.size.height}" + ("" if self.axes == "none" else f" {self.axes}")


@dataclass(frozen=True)
class Sample:
    """A view and its caption."""

    view: View
    caption: str


@dataclass(frozen=True, kw_only=True)
class Cutting:
    """How images become views: `count` of each, in the buckets `sizes`; `seamless` where no image says its own."""

    sizes: tuple[Size, ...]
    count: int = 1
    crop: Crop = "random"
    seamless: SeamlessAxes = "none"
    seed: int = 0


class LatentSet:
    """Views and their latents by kind: samples of a list, and latents (M, C, h, w) in half precision on the CPU."""

    def __init__(self, groups: dict[Kind, tuple[list[Sample], Tensor]]) -> None:
        self.groups = groups
        self.kinds = sorted(groups)

    def __len__(self) -> int:
        return sum(len(samples) for samples, _ in self.groups.values())

    def save(self, path: Path, job: str) -> None:
        """Write to a file, whole or not at all. Raises OutputError."""
        told = {"job": job, "samples": [[kind, self.groups[kind][0]] for kind in self.kinds]}
        text = json.dumps(told, default=lambda sample: [sample.view, sample.caption])
        with replacing(path) as beside:
            whole = {str(i): self.groups[kind][1].contiguous() for i, kind in enumerate(self.kinds)}
            beside.write_bytes(save(whole, {"latents": text}))

    @classmethod
    def load(cls, path: Path, job: str) -> LatentSet | None:
        """What `save` wrote for the same job, or None where there is nothing.

        Raises:
            CheckpointError: a damaged file.
        """
        if not path.is_file():
            return None
        try:
            with safe_open(path, "pt") as file:
                told = json.loads((file.metadata() or {})["latents"])
                if told["job"] != job:
                    return None
                groups = {
                    Kind(Size(*kind[0]), kind[1]): ([_sample(*row) for row in rows], file.get_tensor(str(i)))
                    for i, (kind, rows) in enumerate(told["samples"])
                }
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            raise CheckpointError(
                f"Expected latents in {path}, but it is damaged ({error}); delete it to make them again."
            ) from error
        return cls(groups)


def _sample(view: list[Any], caption: str) -> Sample:
    """Of the lists that JSON has."""
    size, axes, original, resized, left, top = view
    return Sample(View(Size(*size), axes, Size(*original), Size(*resized), left, top), caption)


def encode_images(
    images: Sequence[Captioned],
    model: Tunable,
    cutting: Cutting,
    *,
    say: Callable[[str], None],
    progress: Callable[[int, int], None] | None = None,
) -> LatentSet:
    """Cut and encode every image; `say` is told of those that cannot be read, which are left out.

    Raises:
        ZelligeError: none can be read, or the autoencoder overflows.
    """
    found: dict[Kind, tuple[list[Sample], list[Tensor]]] = {}
    failed = 0
    for number, (image, made) in enumerate(_read_ahead(images, cutting)):
        if isinstance(made, str):
            failed += 1
            say(f"left out: {made}")
            continue
        for view, pixels in made:
            with torch.no_grad():
                latent = model.encode(pixels[None] * 2 - 1, view.axes).float().cpu()
            if not bool(latent.abs().max() < HALF):
                raise CheckpointError(f"Expected finite latents, but the autoencoder overflows on {image.path}.")
            samples, latents = found.setdefault(Kind(view.size, view.axes), ([], []))
            samples.append(Sample(view, image.caption))
            latents.append(latent.half())
        if progress is not None:
            progress(number + 1, len(images))
    if not found:
        raise ZelligeError(f"Expected at least one image that can be read, but none of {failed} can.")
    return LatentSet({kind: (samples, torch.cat(latents)) for kind, (samples, latents) in found.items()})


def _read_ahead(
    images: Sequence[Captioned], cutting: Cutting
) -> Iterator[tuple[Captioned, list[tuple[View, Tensor]] | str]]:
    """Each image with its views' pixels, or why it cannot be read; some are read while others are encoded."""
    # one thread: Pillow's warnings are silenced for the whole process while a file is open
    with ThreadPoolExecutor(1) as pool:
        waiting: deque[tuple[Captioned, Future[list[tuple[View, Tensor]] | str]]] = deque()
        for image in images:
            waiting.append((image, pool.submit(_views, image, cutting)))
            if len(waiting) > AHEAD:
                done, future = waiting.popleft()
                yield done, future.result()
        for done, future in waiting:
            yield done, future.result()


def _views(image: Captioned, cutting: Cutting) -> list[tuple[View, Tensor]] | str:
    axes = cutting.seamless if image.seamless is None else image.seamless
    try:
        pixels = read_image(image.path)
    except ZelligeError as error:
        return str(error)
    original = Size(pixels.shape[-1], pixels.shape[-2])
    # its own numbers, so that an image that comes or goes changes no other's views
    rng = random.Random(f"{cutting.seed} {image.path.name} {original}")
    views = plan_views(original, cutting.sizes, count=cutting.count, rng=rng, seamless=axes, crop=cutting.crop)
    return [(view, cut(pixels, view, axes)) for view in views]


class Batches:
    """An endless order of batches: in each epoch every sample comes once, in batches of one kind, kinds mixed.

    A kind's last batch of an epoch is filled up with others of the kind. Batch number n depends on the arguments alone.
    """

    def __init__(self, counts: dict[Kind, int], size: int, seed: int) -> None:
        self.counts = counts
        self.size = size
        self.seed = seed
        self.length = sum(-(-count // size) for count in counts.values())
        self._epoch: tuple[int, list[tuple[Kind, list[int]]]] = (-1, [])

    def __getitem__(self, number: int) -> tuple[Kind, list[int]]:
        """The kind, and the places of `size` samples in it."""
        epoch, place = divmod(number, self.length)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._shuffled(epoch))
        return self._epoch[1][place]

    def _shuffled(self, epoch: int) -> list[tuple[Kind, list[int]]]:
        rng = random.Random(f"{self.seed} {epoch}")
        made = []
        for kind in sorted(self.counts):
            order = list(range(self.counts[kind]))
            rng.shuffle(order)
            while len(order) % self.size:
                order.append(rng.randrange(self.counts[kind]))
            made += [(kind, order[i : i + self.size]) for i in range(0, len(order), self.size)]
        rng.shuffle(made)
        return made
