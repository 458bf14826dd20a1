"""The shipped model from the command line to files: in a process as a user starts it, then in this one; the same
request by batch, API and Ray. That `zellige serve` starts is in `api/test_access.py`, that the web page makes the
command's pixels in `web/test_browser.py`."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.ui.api.conftest import serving
from ui import cli
from ui.jobs import _load
from ui.results import ROW_FILE

ROOT = Path(__file__).parents[2]
PROMPT = "mossy cobblestone wall"
pytestmark = pytest.mark.skipif(
    not (ROOT / "materials" / "weights" / "model_index.json").is_file(), reason="materials/weights is not there"
)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """What other threads add up in another order differs by rounding."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two samples, seeds 7 and 8, that a process of its own made."""
    out = tmp_path_factory.mktemp("real") / "two"
    command = ["material", PROMPT, "--size", "72x64", "--steps", "2", "--seed", "7", "--count", "2", "--json"]
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "ui", *command, "--out", str(out)],
        cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert 0 < told["seconds"] <= time.perf_counter() - started
    assert [sample["folder"] for sample in told["samples"]] == [str(out / "0000"), str(out / "0001")]
    return out


def test_every_map_has_the_size_asked_for(two: Path) -> None:
    for folder in (two / "0000", two / "0001"):
        for name in ("basecolor", "normal", "height", "roughness", "metallic", "ao"):
            with Image.open(folder / f"{name}.png") as image:
                assert image.size == (72, 64)


def test_a_sample_alone_is_the_same_in_another_process(
    two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wish = ["material", PROMPT, "--size", "72x64", "--steps", "2", "--seed", "8", "--out", str(tmp_path / "alone")]
    assert cli.main(wish) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    files = [Path(line) for line in captured.out.splitlines()]
    assert {file.name for file in files} == {path.name for path in (two / "0001").iterdir()}
    for file in files:
        assert file.read_bytes() == (two / "0001" / file.name).read_bytes(), file


def test_a_batch_makes_the_same_files_and_a_second_go_nothing(
    two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    row(tmp_path)
    assert cli.main(["batch", "real.jsonl"]) == 0
    capsys.readouterr()
    assert cli.main(["batch", "real.jsonl", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["made"] == [] and told["kept"] == ["wall"]
    assert cli.main(["batch", "--merge", "out", "--verify"]) == 0
    made = {path.name for path in Path("out/wall").iterdir()} - {ROW_FILE}
    assert made == {path.name for path in (two / "0000").iterdir()}
    for name in made:
        assert (Path("out/wall") / name).read_bytes() == (two / "0000" / name).read_bytes(), name


def row(folder: Path) -> None:
    """The manifest that asks for the first of `two`."""
    wish = {"id": "wall", "kind": "material", "prompt": PROMPT, "size": "72x64", "steps": 2, "seed": 7}
    (folder / "real.jsonl").write_text(json.dumps(wish))


def same_pixels(found: dict[str, bytes], two: Path) -> None:
    """Whether PNGs by name decode to the same values as those of the first of `two`."""
    wanted = {path.name: path.read_bytes() for path in (two / "0000").glob("*.png")}
    assert found.keys() == wanted.keys() and len(wanted) >= 8
    for name, data in wanted.items():
        mine, theirs = (Image.open(io.BytesIO(each)) for each in (found[name], data))
        assert (mine.mode, mine.size, mine.tobytes()) == (theirs.mode, theirs.size, theirs.tobytes()), name


def test_the_api_makes_the_same_pixels(two: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "jobs", load=lambda name: _load(name, "cpu")) as live:
        job = live.wait(live.submit(prompt=PROMPT, size="72x64", steps=2, seed=7))
        assert job["state"] == "done", job
        pictures = [f for f in job["files"] if f["name"].endswith(".png")]
        same_pixels({f["name"]: live.ask("GET", f["url"]).body for f in pictures}, two)


@pytest.mark.skipif(
    "ZELLIGE_TEST_RAY" not in os.environ or importlib.util.find_spec("ray") is None,
    reason="starts a cluster: needs ray, and ZELLIGE_TEST_RAY=1",
)
def test_ray_makes_the_same_pixels(two: Path, tmp_path: Path) -> None:
    row(tmp_path)
    command = [sys.executable, "-m", "ui", "batch", "real.jsonl", "--engine", "ray", "--workers", "1"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout) == (0, "out/wall\n"), done.stderr
    same_pixels({path.name: path.read_bytes() for path in (tmp_path / "out" / "wall").glob("*.png")}, two)
