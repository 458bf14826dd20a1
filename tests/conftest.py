"""Every test runs offline; what a library would fetch is an error at once, not a wait."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
# the tests start many interpreters, each of which would otherwise compile torch and transformers anew: 15 s apiece
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
if "PYTEST_XDIST_WORKER" in os.environ:
    # read as torch is first imported, here and in what the tests start; three processes with two threads each only wait
    os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).parents[1]
LONG = ("tests/ui/web/test_browser.py", "tests/ui/api/test_hostile.py", "tests/ui/api/test_document.py")
"""Begun first, so that no process is left alone with one of them at the end."""
WITH_SITE = tuple(f"tests/ui/web/{name}.py" for name in ("test_browser", "test_browser_kinds", "test_site"))
"""In one process, which then starts `zellige ui` once."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {ROOT / name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path, len(LONG)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """By files, as `--dist loadfile` does it, but for those that share something dear."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return WITH_SITE[0] if file in WITH_SITE else file

    return Scheduling(config, log)


@pytest.fixture(autouse=True)
def dice() -> None:
    """What a test draws depends on no other test, nor on which process runs it: its tolerances hold here and in CI."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """What a test leaves in the environment (a command silences the libraries there) ends with the test."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)
