"""What the material U-Net is told besides the prompt's tokens: one vector per sample, the same in training and use."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TEXT_DIM = 384
"""Width of MiniLM-L6's embeddings."""
SCALE_OCTAVES = 4
CONDITION_DIM = TEXT_DIM + 2 + 2 * SCALE_OCTAVES + 2
SCALE_RANGE = (0.0, 1.0)
"""Texel scales that training covers: log2(pixels along the pattern's short side / 256), 0 = 256 px, 1 = 512 px."""


def condition_vector(pooled: Tensor, scale: Tensor, wrap_x: Tensor, wrap_y: Tensor, domain: Tensor) -> Tensor:
    """The (N, CONDITION_DIM) vector that the U-Net takes as `class_labels`.

    Args:
        pooled: (N, TEXT_DIM) unit-length sentence embeddings; zeros for no prompt.
        scale: (N,) texel scale, see `SCALE_RANGE`; Fourier features of it (Tancik et al. 2020) go in.
        wrap_x, wrap_y: (N,) 1 where that axis tiles, else 0.
        domain: (N,) 1 photographic textures, -1 procedural materials, 0 either.
    """
    parts = [pooled * math.sqrt(TEXT_DIM), (domain > 0.5)[:, None], (domain < -0.5)[:, None]]
    for octave in range(SCALE_OCTAVES):
        angle = scale * (math.pi / 2 * 2**octave)
        parts += [angle.sin()[:, None], angle.cos()[:, None]]
    parts += [wrap_x[:, None], wrap_y[:, None]]
    return torch.cat([p.to(pooled.dtype) for p in parts], dim=1)
