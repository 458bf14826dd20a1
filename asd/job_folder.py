"""The folder of a job that a killed run goes on from: whose it is, and how its pictures get their names."""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from .canvas_file import STRIP, create, replacing
from .errors import OutputError, ZelligeError
from .resample import resample_window
from .sizes import Size

Bytes = NDArray[np.uint8]
_T = TypeVar("_T", np.uint8, np.float32)
JOB = "job.json"
RESULT = "result.npy"
BAND = 1024
"""Columns that are resampled at once."""


def check_bytes(image: Bytes) -> None:
    """Raise ZelligeError unless it is a picture (3, H, W) of bytes."""
    if image.ndim != 3 or image.shape[0] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ZelligeError(f"Expected an image (3, H, W) of bytes, but got {image.shape} of {image.dtype}.")


def begin(folder: Path, image: Bytes, told: Mapping[str, Any]) -> str:
    """Make the folder or see that it is this job's, which `told` and the picture decide; returns the job as text."""
    whole: dict[str, Any] = dict(told)
    whole["image"] = hashlib.sha256(np.ascontiguousarray(image).data).hexdigest()
    whole["shape"] = list(image.shape)
    whole["torch"] = torch.__version__
    name = json.dumps(whole, sort_keys=True)
    path = folder / JOB
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            if path.read_text(encoding="utf-8") != name:
                raise ZelligeError(f"Expected the folder of this job, but {folder} is that of another (delete it).")
            return name
        for rest in folder.glob(f".{JOB}.*.tmp"):  # a kill came while the file was written
            rest.unlink(missing_ok=True)
        if any(folder.iterdir()):
            raise ZelligeError(f"Expected an empty folder for the job, but {folder} holds other files.")
        with replacing(path) as beside:
            beside.write_text(name, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"Expected to write {folder}, but the system refused: {error.strerror or error}.") from error
    return name


def publish(made: Any, path: Path, target: Path, size: Size, wrap: tuple[bool, bool]) -> None:
    """The finished pixels of `path` under the name `target`, resampled first where they are of another size."""
    if made.shape[1:] == (size.height, size.width):
        made.flush()
        del made
        path.replace(target)
        return
    beside = path.with_name(path.name.replace("pixels", "sized"))
    sized = create(beside, size)
    for top in range(0, size.height, STRIP):
        rows = (top, min(top + STRIP, size.height))
        for left in range(0, size.width, BAND):
            columns = (left, min(left + BAND, size.width))
            part = resample_window(made, (size.height, size.width), rows, columns, wrap=wrap)
            sized[:, rows[0] : rows[1], left : columns[1]] = part.round_().clamp_(0, 255).to(torch.uint8).numpy()
        release(made)
        release(sized)
    sized.flush()
    del sized
    beside.replace(target)


def cut(image: NDArray[_T], size: tuple[int, int], *, wrap_x: bool, wrap_y: bool) -> NDArray[_T]:
    """The middle of a picture that has the ratio of `size`, as `asd.two_stage.fitted` cuts it."""
    rows, columns = image.shape[1:]
    wide = columns if wrap_x else min(columns, max(1, round(rows * size[0] / size[1])))
    high = rows if wrap_y else min(rows, max(1, round(columns * size[1] / size[0])))
    top, left = (rows - high) // 2, (columns - wide) // 2
    return image[:, top : top + high, left : left + wide]


def release(array: Any) -> None:
    """Let the system have a mapped file's pages back: what was written is its, and comes again when it is read."""
    mapped = getattr(array, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
