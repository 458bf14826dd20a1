"""The wheel a user gets: what is in it, and that it does the main job outside this repository."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WEIGHTS = ROOT / "materials" / "weights"
PACKAGES = {"asd", "kernels", "materials", "textile_metric", "ui"}


def run(*command: str | Path, cwd: Path | None = None) -> str:
    # with all its threads, as a user runs it
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # without build isolation nothing is downloaded: the build backend is among the development packages
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "-w", folder, ROOT)
    (found,) = folder.glob("zellige-*.whl")
    return found


@pytest.fixture(scope="module")
def clean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts of a new environment with the wheel in it; the dependencies are this interpreter's."""
    folder = tmp_path_factory.mktemp("clean") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    home = next((folder / "lib").glob("python*/site-packages"))
    here = sysconfig.get_paths()["purelib"]
    run(sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--no-deps", "--quiet", wheel)
    # a folder named in a .pth comes after the environment's own, and its own .pth files, the editable install of this
    # repository among them, are not read
    (home / "dependencies.pth").write_text(here + "\n", encoding="utf-8")
    return folder / "bin"


def test_holds_the_packages_and_their_weights_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES
    assert not [name for name in names if "__pycache__" in name]
    assert [name for name in names if name.endswith("/LICENSE") and ".dist-info/" in name]
    here = {str(path.relative_to(ROOT)) for top in PACKAGES for path in (ROOT / top).rglob("*.py")}
    here |= {str(path.relative_to(ROOT)) for path in WEIGHTS.rglob("*") if path.is_file()}
    here |= {str(path.relative_to(ROOT)) for path in (ROOT / "ui" / "web" / "static").iterdir()}
    assert here <= set(names)


def test_shipped_weights_stay_small() -> None:
    sizes = {str(path): path.stat().st_size for folder in PACKAGES for path in (ROOT / folder).rglob("*.safetensors")}
    assert sum(sizes.values()) <= 200_000_000, sizes


def test_command_starts_in_a_clean_environment(clean: Path, tmp_path: Path) -> None:
    assert run(clean / "zellige", "--version", cwd=tmp_path).startswith("zellige ")
    program = "import materials, ui; print(materials.__file__, ui.__file__)"
    for place in run(clean / "python", "-c", program, cwd=tmp_path).split():
        assert Path(place).is_relative_to(clean.parent)


@pytest.mark.skipif(not (WEIGHTS / "model_index.json").is_file(), reason="materials/weights is not there")
def test_main_job_in_a_clean_environment(clean: Path, tmp_path: Path) -> None:
    told = run(clean / "zellige", "material", "red brick", "--size", "64x64", "--steps", "2", cwd=tmp_path)
    lines = told.splitlines()
    assert {Path(line).name for line in lines} >= {"basecolor.png", "normal.png", "height.png", "material.json"}
    assert all((tmp_path / line).is_file() for line in lines)
