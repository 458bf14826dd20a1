"""Keep `import transformers`, `diffusers` and `timm` alive beside a torchvision whose operators can't load."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import torch

# Operators that torchvision describes at import whether or not its compiled library loaded (torchvision 0.15 to 0.28).
_SCHEMAS = {"nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"}
_SCHEMAS["qnms"] = _SCHEMAS["nms"]
_library: torch.library.Library | None = None


def guard_torchvision() -> bool:
    """Declare torchvision's missing operators, so that importing it doesn't raise; True if that was needed.

    PyPI's torchvision for Linux is built against CUDA. Beside a CPU build of torch its library doesn't load, and from
    then on `import torchvision` (which timm requires, and transformers tries) raises "operator torchvision::nms does
    not exist". Nothing of ours calls those operators. With matching builds, or without torchvision, this does nothing.
    """
    global _library
    if _library is not None or torch.version.cuda is not None or torch.version.hip is not None:
        return False
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    version = Path(spec.origin).with_name("version.py")
    if not (version.is_file() and re.search(r"__version__ = '[^']*\+(cu|rocm)\d", version.read_text())):
        return False
    _library = torch.library.Library("torchvision", "FRAGMENT")
    for name, schema in _SCHEMAS.items():
        _library.define(name + schema)
    return True
