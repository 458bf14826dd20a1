"""The packages' surfaces: small `__init__` files, sorted `__all__`, names that exist, and nothing heavy at import."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ["asd", "kernels", "materials", "textile_metric", "ui"]


@pytest.mark.parametrize("package", PACKAGES)
def test_init_is_short(package: str) -> None:
    assert len((ROOT / package / "__init__.py").read_text(encoding="utf-8").splitlines()) < 50


@pytest.mark.parametrize("package", PACKAGES)
def test_all_is_sorted_and_every_name_exists(package: str) -> None:
    module = importlib.import_module(package)
    names = getattr(module, "__all__", [])
    assert names == sorted(set(names))
    for name in names:
        assert getattr(module, name) is not None
        assert name in dir(module)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = module.no_such_name


@pytest.mark.parametrize("package", PACKAGES)
def test_import_is_light(package: str) -> None:
    program = f"import sys, {package}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"torch", "numpy", "PIL", "diffusers", "transformers", "timm", "gradio"}


def test_kernels_uses_the_standard_library_alone() -> None:
    # -S leaves out site-packages and the editable install, so that anything else would fail to import
    program = "import sys; sys.path.insert(0, sys.argv[1]); import kernels; print(kernels.__version__)"
    command = [sys.executable, "-S", "-c", program, str(ROOT)]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=True)
    assert done.stdout == "0.0.0\n"


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("kernels", set()),
        ("textile_metric", {"kernels"}),
        ("asd", {"kernels", "textile_metric"}),
        ("materials", {"kernels", "textile_metric", "asd"}),
        ("ui", {"kernels", "textile_metric", "asd", "materials"}),
    ],
)
def test_packages_import_only_what_the_design_allows(package: str, allowed: set[str]) -> None:
    import ast

    forbidden = {*PACKAGES, "benchmarks", "tests", "training"} - allowed - {package}
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            else:
                continue
            for name in names:
                assert name.partition(".")[0] not in forbidden, f"{path.relative_to(ROOT)} imports {name}"
