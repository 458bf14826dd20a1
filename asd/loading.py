"""Loading checkpoints of Stable Diffusion: safetensors alone, no code but diffusers' own."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from textile_metric.torchvision_guard import guard_torchvision

from .errors import CheckpointError
from .stable_diffusion import LAYOUTS

guard_torchvision()


def load_base(path_or_id: str | Path, options: dict[str, Any]) -> Any:
    """The diffusers pipeline of a folder or hub id; see `AnySizePipeline.from_pretrained`."""
    import diffusers

    if options.get("trust_remote_code") or options.get("custom_pipeline"):
        raise CheckpointError("Expected a checkpoint that needs no code of its own, but got remote code asked for.")
    if not options.get("use_safetensors", True):
        raise CheckpointError("Expected safetensors, but got use_safetensors=False, which loads pickles.")
    folder = Path(path_or_id)
    if folder.is_dir():
        options["local_files_only"] = True
    # newer versions warn of the one name, older ones ignore the other
    told = diffusers.DiffusionPipeline.from_pretrained.__doc__ or ""
    known, other = ("dtype", "torch_dtype") if re.search(r"^\s+dtype \(", told, re.M) else ("torch_dtype", "dtype")
    if other in options:
        options[known] = options.pop(other)
    try:
        name = layout(path_or_id, options)
        if name not in LAYOUTS:
            raise CheckpointError(f"Expected a checkpoint of {' or '.join(LAYOUTS)}, but got one of {name}.")
        base = getattr(diffusers, name).from_pretrained(str(path_or_id), **options, use_safetensors=True)
    except CheckpointError:
        raise
    # diffusers, transformers, safetensors and the hub raise all kinds for a damaged folder
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"Expected a Stable Diffusion checkpoint in {str(path_or_id)!r}, but it does not load: {reason}"
        ) from error
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        module = getattr(base, part, None)
        if module is not None and any(parameter.is_meta for parameter in module.parameters()):
            raise CheckpointError(f"Expected a whole checkpoint in {str(path_or_id)!r}, but {part} lacks weights.")
    return base


def layout(path_or_id: str | Path, options: Mapping[str, Any] | None = None) -> str:
    """The pipeline class that a folder or hub id names; `options` are diffusers' of finding it (revision, token, ...).

    Raises:
        CheckpointError: neither a diffusers folder nor a hub id that can be read.
    """
    folder = Path(path_or_id)
    if folder.is_dir():
        index = folder / "model_index.json"
        if not index.is_file():
            raise CheckpointError(f"Expected a diffusers folder with model_index.json, but got {folder}.")
        return _named(index)
    if folder.is_absolute() or "/" not in str(path_or_id):
        raise CheckpointError(f"Expected a diffusers folder or a hub id, but got {str(path_or_id)!r}.")
    from huggingface_hub import hf_hub_download

    given = options or {}
    known = {key: given[key] for key in ("revision", "token", "cache_dir", "local_files_only") if key in given}
    try:
        return _named(Path(hf_hub_download(str(path_or_id), "model_index.json", **known)))
    except Exception as error:  # the hub's client raises all kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"Expected the model {str(path_or_id)!r}, but it cannot be read: {reason}") from error


def _named(index: Path) -> str:
    return str(json.loads(index.read_text(encoding="utf-8")).get("_class_name"))
