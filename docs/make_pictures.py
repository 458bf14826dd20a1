"""Make the README's pictures with the shipped model: `python docs/make_pictures.py` (a few minutes on two cores)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from materials import MaterialPipeline, render
from materials.maps import ambient_occlusion
from materials.material import Material
from materials.png import write_png

IMAGES = Path(__file__).with_name("images")
HERO = (("mossy cobblestone wall", 7), ("red brick wall", 3), ("rusty painted metal plate", 4), ("brown leather", 5))
SHEET = (
    "brick wall", "cobblestone paving", "wooden planks", "ceramic tiles, blue", "roof shingles", "rusty metal",
    "rock cliff", "gravel", "sand", "green grass", "snow", "concrete", "plaster wall, yellow", "red woven fabric",
    "brown leather", "lava",
)  # fmt: skip


def row(pictures: list[Tensor]) -> Tensor:
    return torch.cat(pictures, -1)


def save(name: str, picture: Tensor) -> None:
    write_png(IMAGES / name, (picture.clamp(0, 1) * 255).round().byte().numpy(), colour="srgb")


def channels(material: Material) -> list[Tensor]:
    occlusion = ambient_occlusion(
        material.height[None], depth_m=material.depth_m, size_m=material.size_m, seamless=material.seamless
    )[0]
    grey = [material.height, material.roughness, material.metallic, occlusion]
    return [material.basecolor, material.normal * 0.5 + 0.5, *(g.expand(3, -1, -1) for g in grey)]


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    pipeline = MaterialPipeline.from_pretrained()
    heroes = [pipeline(prompt, size=(512, 512), seed=seed) for prompt, seed in HERO]
    save("hero.png", row([render(m, (320, 320)) for m in heroes]))
    save("maps.png", row([m[:, :256, :256] for m in channels(heroes[0])]))
    tiles = [pipeline(prompt, size=(192, 192), seed=11).basecolor for prompt in SHEET]
    save("sheet.png", torch.cat([row(tiles[i : i + 8]) for i in range(0, len(tiles), 8)], -2))


if __name__ == "__main__":
    main()
