"""What decides the pixels of a row, as one hash: the request, the images it reads, the program and the weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import materials
from asd.errors import CheckpointError, ZelligeError
from ui.enlarging import in_one_step, upscaler_version
from ui.request import Request
from ui.sources import image_files

SHIPPED = Path(materials.__file__).with_name("weights")
"""The model of a request that names none."""
_WEIGHTS = ("*.json", "*.safetensors", "*.txt", "*.model")
"""What a diffusers folder is loaded from; a model card changes nothing."""


@dataclass(frozen=True)
class Weights:
    """What to load, and what decides the pixels of it."""

    source: str | None
    """A folder; None for the shipped model."""
    version: str | None
    """The contents, or a hub id and its commit; None before a download."""


def find_weights(model: str | None, *, fetch: bool = True) -> Weights:
    """The weights that `Request.model` names; a hub id is downloaded once and then read from that copy, if `fetch`.

    Raises CheckpointError where there is no such model.
    """
    if model is None:
        return Weights(None, _folder_version(SHIPPED, "the package"))
    folder = Path(model)
    try:
        local, there = folder.is_dir(), folder.exists()
    except (OSError, ValueError):  # a name that is too long, or has a character that no file can have
        local, there = False, True
    if local:
        return Weights(model, _folder_version(folder, repr(model)))
    if there or "/" not in model or folder.is_absolute():
        raise CheckpointError(f"Expected a diffusers folder with model_index.json or a hub id, but got {model[:200]!r}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        copy = snapshot_download(model, allow_patterns=list(_WEIGHTS), local_files_only=not fetch)
    except Exception as error:  # the hub's client raises all kinds
        if isinstance(error, LocalEntryNotFoundError) and not fetch:
            return Weights(model, None)
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"Expected to find the model {model[:200]!r}, but: {reason}") from error
    return Weights(copy, f"{model}@{Path(copy).name}")  # the folder is named after the commit


def made_of(request: Request, weights: Weights) -> dict[str, Any]:
    """Everything that decides the result, as JSON values; images and weights by content, not by name.

    Raises ZelligeError for an image that cannot be read.
    """
    asked = request.to_dict()
    del asked["model"]
    if "lock" in asked:
        asked["lock"] = {name: _content(f"locked {name}", value) for name, value in request.lock}
    if request.image is not None:
        asked["image"] = [_file_content("photo", str(file)) for file in image_files(request.image)]
    if request.lora is not None:
        asked["lora"] = lora_version(request.lora)
    if request.mask is not None:
        asked["mask"] = _file_content("mask", request.mask)
    version = upscaler_version() if in_one_step(request) else weights.version
    return {"program": _program(), "weights": version, **asked}


def lora_version(path: str) -> str:
    """The contents of the file that `Request.lora` means. Raises CheckpointError where there is none."""
    from asd.lora import lora_file

    return _file_content("LoRA", str(lora_file(path)), "a file")


def fingerprint(parts: Mapping[str, Any]) -> str:
    """SHA-256 of what `made_of` returns, as hex."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def digest(path: Path) -> str:
    """SHA-256 of a file, as hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _content(name: str, value: float | str) -> float | str:
    if not isinstance(value, str):
        return float(value)
    return value.lower() if value.startswith("#") else _file_content(name, value)


def _file_content(name: str, path: str, kind: str = "an image") -> str:
    try:
        return f"sha256:{digest(Path(path))}"
    except (OSError, ValueError) as error:  # ValueError: a character that no file name can have
        reason = getattr(error, "strerror", None) or error
        told = f"Expected the {name} to be {kind}, but {path} cannot be read: {reason}"
        raise ZelligeError(told) from error


@cache
def _program() -> str:
    try:
        return version("zellige")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"


def _folder_version(folder: Path, name: str) -> str:
    try:
        if not (folder / "model_index.json").is_file():
            raise CheckpointError(f"Expected a diffusers folder with model_index.json, but {name} has none")
        files = sorted({path for pattern in _WEIGHTS for path in folder.rglob(pattern)})
        stamps = [(path, path.stat().st_size, path.stat().st_mtime_ns) for path in files if path.is_file()]
        return _hash_folder(folder, tuple(stamps))
    except OSError as error:
        raise CheckpointError(f"Expected to read the model in {name}, but the system refused: {error}") from error


@cache  # gigabytes: once for each state of the files
def _hash_folder(folder: Path, stamps: tuple[tuple[Path, int, int], ...]) -> str:
    whole = hashlib.sha256()
    for path, _, _ in stamps:
        whole.update(f"{path.relative_to(folder).as_posix()} {digest(path)}\n".encode())
    return f"sha256:{whole.hexdigest()}"
