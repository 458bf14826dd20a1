"""`kernels` is also the name of a Hugging Face package: both must work, whichever is found first."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# every name that transformers.integrations.hub_kernels and diffusers import from the other package
FOREIGN_INIT = """
from .layer import CUDAProperties, Device, KernelizeFallback, LayerRepository, LocalLayerRepository, Mode
from .layer import ROCMProperties, kernelize, register_kernel_mapping, replace_kernel_forward_from_hub
from .layer import use_kernel_forward_from_hub, use_kernel_func_from_hub, use_kernel_mapping, use_kernelized_func
from .utils import get_kernel

__all__ = ["get_kernel", "kernelize"]
__version__ = "0.18.3"
"""
FOREIGN_LAYER = """
class _Named:
    def __init__(self, *args, **kwargs):
        pass


class CUDAProperties(_Named): ...
class Device(_Named): ...
class KernelizeFallback(_Named): ...
class LayerRepository(_Named): ...
class LocalLayerRepository(_Named): ...
class ROCMProperties(_Named): ...


class Mode:
    INFERENCE, TRAINING, TORCH_COMPILE, FALLBACK = 1, 2, 4, 8


def kernelize(model, **kwargs):
    return model


def register_kernel_mapping(*args, **kwargs):
    return None


replace_kernel_forward_from_hub = use_kernel_mapping = register_kernel_mapping


def use_kernel_forward_from_hub(name):
    return lambda cls: cls


def use_kernelized_func(*names):
    return lambda cls: cls


use_kernel_func_from_hub = use_kernel_forward_from_hub
"""
FOREIGN_UTILS = """
def get_kernel(repo_id, **kwargs):
    return "kernel of " + repo_id
"""
FRAMEWORKS = """
from textile_metric.torchvision_guard import guard_torchvision
guard_torchvision()
import diffusers
import transformers
from diffusers import UNet2DConditionModel
from transformers import BertModel
from transformers.utils import is_kernels_available
assert UNet2DConditionModel.__module__.startswith("diffusers") and BertModel.__module__.startswith("transformers")
import kernels
"""
OURS = (
    FRAMEWORKS
    + """
from pathlib import Path
assert Path(kernels.__file__).resolve() == Path({ours!r}).resolve(), kernels.__file__
assert kernels.__version__ == "0.0.0"
"""
)
FORWARDED = (
    OURS
    + """
assert is_kernels_available()
from kernels import get_kernel, kernelize
from kernels.layer import CUDAProperties
assert get_kernel("a/b") == "kernel of a/b"
assert kernels.CUDAProperties is CUDAProperties
assert not hasattr(kernels, "no_such_name")
"""
)
FOREIGN = (
    FRAMEWORKS
    + """
assert is_kernels_available()
assert kernels.__version__ == "0.18.3" and kernels.get_kernel("a/b") == "kernel of a/b"
"""
)


def run(script: str, *folders: Path) -> None:
    """Run `script` in a fresh interpreter whose path starts with `folders`."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, folders)),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A folder with the least of the Hugging Face distribution that both frameworks accept."""
    package, info = tmp_path / "site" / "kernels", tmp_path / "site" / "kernels-0.18.3.dist-info"
    package.mkdir(parents=True)
    info.mkdir()
    (package / "__init__.py").write_text(FOREIGN_INIT)
    (package / "layer.py").write_text(FOREIGN_LAYER)
    (package / "utils.py").write_text(FOREIGN_UTILS)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kernels\nVersion: 0.18.3\n")
    (info / "top_level.txt").write_text("kernels\n")
    (info / "RECORD").write_text("kernels/__init__.py,,\nkernels/layer.py,,\nkernels/utils.py,,\n")
    (info / "INSTALLER").write_text("pip\n")
    return package.parent


def test_other_package_absent() -> None:
    absent = "\nassert not is_kernels_available()\nassert not hasattr(kernels, 'get_kernel')\n"
    run(OURS.format(ours=str(ROOT / "kernels/__init__.py")) + absent, ROOT)


def test_other_package_after_ours(foreign: Path) -> None:
    run(FORWARDED.format(ours=str(ROOT / "kernels/__init__.py")), ROOT, foreign)


def test_other_package_before_ours(foreign: Path) -> None:
    run(FOREIGN, foreign, ROOT)


def test_import_is_light_and_survives_a_broken_other_package(foreign: Path) -> None:
    (foreign / "kernels/__init__.py").write_text("raise ImportError('broken')\n")
    script = """
import sys
before = set(sys.modules)
import kernels
heavy = {"torch", "numpy", "triton", "transformers", "diffusers"} & (set(sys.modules) - before)
assert not heavy, heavy
assert kernels.__version__ == "0.0.0"
assert not hasattr(kernels, "get_kernel")
assert not hasattr(kernels, "__wrapped__")
"""
    run(script, ROOT, foreign)
