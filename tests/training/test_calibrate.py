"""Fitting the tileability network's calibration on the benchmark's items, with made-up opinions and a tiny pack."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import tiny
from textile_metric import judge
from textile_metric.network import TileNet
from training import calibrate, opinions
from training.opinions import Opinions


def made_up(count: int = 4000) -> Opinions:
    """Normal opinions, whose log odds are linear; most items do not tile."""
    rng = np.random.default_rng(0)
    tiles = rng.random((count, 2)) < 0.35
    profiles, judged = (np.where(tiles, -1.0, 1.0) + rng.normal(0, 1.2, (count, 2)) for _ in range(2))
    source = np.array([f"s{i % 40}" for i in range(count)])
    return Opinions(profiles, judged, tiles, np.full(count, 64), np.full(count, "tile"), source)


def test_fitting_lowers_the_log_loss_of_the_other_half() -> None:
    found = made_up()
    shipped = calibrate.log_loss(calibrate.probabilities(found, (-0.3, 0.7, 0.3)), found.tiles)
    assert calibrate.log_loss(calibrate.crossed(found), found.tiles) < shipped - 0.02
    best = calibrate.fitted(found)
    least = calibrate.log_loss(calibrate.probabilities(found, best), found.tiles)
    for step in np.eye(3) * 0.1:
        moved = calibrate.log_loss(
            calibrate.probabilities(found, (best[0] + step[0], best[1] + step[1], best[2] + step[2])), found.tiles
        )
        assert moved > least
    # two opinions of noise 1.2 around -1 and 1 are each worth 2 / 1.2 ** 2
    assert best[1] == pytest.approx(2 / 1.44, rel=0.1) and best[2] == pytest.approx(2 / 1.44, rel=0.1)
    assert calibrate.shares(found.tiles)[found.tiles.all(1)].sum() == pytest.approx(len(found.side) / 2)


def test_one_truth_alone_is_refused() -> None:
    found = made_up(50)
    with pytest.raises(ValueError, match="Expected items that tile and items that don't, but got 0 of "):
        calibrate.fitted(found.part(~(found.tiles[:, 0] & found.tiles[:, 1])))


def test_sources_are_one_of_a_cluster_and_spread() -> None:
    found = [(i // 2, (str(i), Path())) for i in range(20)]
    assert [name for name, _ in opinions.spread(found, 5)] == ["0", "4", "8", "12", "16"]
    assert len(opinions.spread(found, 99)) == 10


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "SIDE", 64)
    packs = tiny.pack(tmp_path / "files", size=64)
    torch.manual_seed(0)
    state = {name: value.half() for name, value in TileNet().state_dict().items()}
    weights, out, kept, report = (tmp_path / name for name in ("in.safetensors", "out.safetensors", "o.npz", "r.json"))
    save_file(state, weights)
    command = ["calibrate", "--packs", packs, "--weights", weights, "--out", out, "--opinions", kept]
    command += ["--largest", "64", "--trust", "0", "--json", report]
    monkeypatch.setattr(sys, "argv", [str(word) for word in command])
    # every second source is a half; the pack's two that tile are near-duplicates, which count as one
    sources = [(i, (f"{name}.png", tmp_path / "files" / f"{name}.png")) for i, name in enumerate("ac")]
    monkeypatch.setattr(calibrate, "packed", lambda packs, folder: sources)
    assert calibrate.main() == 0
    found = load_file(out)
    assert set(found) == set(state)
    assert all(torch.equal(found[name], state[name]) for name in state if name != "calibration")
    assert found["calibration"].shape == (3,) and not torch.equal(found["calibration"], state["calibration"])
    stored = {row["figure"]: row["value"] for row in json.loads(report.read_text())["figures"]}
    with np.load(kept) as file:
        opinion = Opinions(**{name: file[name] for name in file.files if name != "key"})
    after = calibrate.log_loss(calibrate.probabilities(opinion, tuple(found["calibration"].tolist())), opinion.tiles)
    assert after < stored["as it was: log loss"]
    monkeypatch.setattr(opinions, "opinions", lambda *_: pytest.fail("kept opinions were not taken"))
    assert calibrate.main() == 0


def test_a_packs_images_are_written_out(tmp_path: Path) -> None:
    found = opinions.packed(tiny.pack(tmp_path / "files", size=32), tmp_path / "out")
    assert [name for _, (name, _) in found] == ["a.png", "c.png"]
    assert all(path.is_file() for _, (_, path) in found)
