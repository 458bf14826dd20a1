"""A pipeline without a network: for what the shells do with arguments, errors and files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from materials.material import Material


class PlainPipeline:
    """Flat grey with a little seeded noise; records its calls. `fail_at` (sample, error) raises there, mid-way."""

    def __init__(self, fail_at: tuple[int, BaseException] | None = None) -> None:
        self.calls: list[dict[str, Any]] = []
        self.fail_at = fail_at

    def __call__(
        self, prompt: str, *, size: tuple[int, int], callback: Callable[[int, int], None] | None, **options: Any
    ) -> Material:
        self.calls.append({"prompt": prompt, "size": size, **options})
        steps = options["steps"] or 4
        for step in range(1, steps + 1):
            if self.fail_at is not None and step == 2 and len(self.calls) == self.fail_at[0] + 1:
                raise self.fail_at[1]
            if callback is not None:
                callback(step, steps)
        width, height = size
        noise = torch.rand(6, height, width, generator=torch.Generator().manual_seed(options["seed"]))
        normal = torch.zeros(3, height, width)
        normal[2] = 1
        return Material(
            basecolor=noise[:3],
            normal=normal,
            height=noise[3:4],
            roughness=noise[4:5],
            metallic=noise[5:6],
            depth_m=0.01,
            size_m=(1.0, height / width),
            seamless=options["seamless"],
        )


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> PlainPipeline:
    """The one that `run_job` loads when it is given none."""
    made = PlainPipeline()
    monkeypatch.setattr("ui.jobs._load", lambda model, device: made)
    return made


@pytest.fixture
def shipped(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the place of the shipped weights, which the plain pipeline does not read."""
    folder = tmp_path_factory.mktemp("weights")
    (folder / "model_index.json").write_text("{}")
    monkeypatch.setattr("ui.fingerprint.SHIPPED", folder)
    return folder


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results without previews, whose rendering takes nearly all the time of a tiny one."""
    import materials.files

    save = materials.files.save_material
    monkeypatch.setattr(materials.files, "save_material", lambda *a, **options: save(*a, **options, previews=False))


def hidden(folder: Path) -> list[Path]:
    """What an interrupted job would leave behind."""
    return [path for path in folder.rglob(".*")]
