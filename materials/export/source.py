"""What every target is made from: `Source`, the maps of a named material as pixels, packed as asked."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from materials.errors import ZelligeError
from materials.files import quantise
from materials.maps import ambient_occlusion
from materials.material import Material
from materials.png import Pixels

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


@dataclass(frozen=True)
class Source:
    """A material, its occlusion (1, H, W) and the name that its files start with."""

    name: str
    material: Material
    occlusion: Tensor

    @staticmethod
    def of(material: Material, name: str) -> Source:
        """Raises ZelligeError for a name that some target could not use."""
        if not _NAME.fullmatch(name):
            raise ZelligeError(f"Expected a name of 1 to 64 letters, digits and _ that starts with a letter, "
                               f"but got {name[:80]!r}.")  # fmt: skip
        relief = {"depth_m": material.depth_m, "size_m": material.size_m, "seamless": material.seamless}
        return Source(name, material, ambient_occlusion(material.height[None], **relief)[0])

    def pixels(self, *names: str, bits: int = 8) -> Pixels:
        """(C, H, W) uint8 or uint16: the named maps one after the other.

        Names: those of `materials.material.MAPS`, ao, smoothness (1 - roughness), one, and normal_dx: OpenGL normals
        with green turned, exactly (255 or 65535 minus the OpenGL value).
        """
        return np.concatenate([self._one(name, bits) for name in names])

    def _one(self, name: str, bits: int) -> Pixels:
        top = 255 if bits == 8 else 65535
        if name in ("normal", "normal_dx"):
            pixels = quantise(self.material.normal, bits, signed=True)
            if name == "normal_dx":
                pixels[1] = top - pixels[1]
            return pixels
        if name == "smoothness":
            return top - quantise(self.material.roughness, bits)
        if name == "one":
            return quantise(torch.ones_like(self.occlusion), bits)
        return quantise(self.occlusion if name == "ao" else getattr(self.material, name), bits)

    @property
    def resolution(self) -> str:
        """As material libraries write it: 1K for 1024 pixels along the longer side, else such as 640x480."""
        width, height = self.material.size
        longest = max(width, height)
        return f"{longest // 1024}K" if longest % 1024 == 0 and width == height else f"{width}x{height}"


def name_of(text: str) -> str:
    """A name that every target can use, from a folder's or a prompt's words."""
    name = re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_")[:48].strip("_")
    if not name:
        return "material"
    return name if name[0].isalpha() else f"m_{name}"
