"""The shipped network: its file, its version, its checksum, loaded once per device."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from textile_metric.network import TileNet

FILE = Path(__file__).with_name("weights") / "tileability.safetensors"
VERSION = "0.4"
"""Named in every result: scores of different versions don't compare."""
SHA256 = "c4dedc2cf3ddcacdfc428cc0869537597cb11de3cbff2617cfa18a21bad2a007"


@functools.lru_cache(maxsize=4)
def network(device: torch.device) -> TileNet:
    """The shipped `TileNet` in eval mode on `device`, its parameters frozen.

    Raises ValueError where the file is missing, damaged or another version's.
    """
    from safetensors.torch import load

    from textile_metric.network import TileNet

    try:
        content = FILE.read_bytes()
    except OSError as error:
        raise ValueError(f"Expected the tileability weights in {FILE}, but got: {error}.") from error
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise ValueError(f"Expected tileability weights with SHA-256 {SHA256[:16]}…, but {FILE} has {found[:16]}….")
    model = TileNet()
    model.load_state_dict({name: value.float() for name, value in load(content).items()})
    return model.eval().requires_grad_(False).to(device)
