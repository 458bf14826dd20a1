"""In processes of their own: what torchvision registers stays for the life of a process."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROBE = """
from textile_metric.torchvision_guard import guard_torchvision
print(guard_torchvision(), guard_torchvision())
"""


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


def test_guard_keeps_the_libraries_alive() -> None:
    done = run(PROBE + "import torchvision, timm\nprint('alive')")
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    # only the first call does anything
    assert first in ("True False", "False False") and rest == ["alive"]
    if first == "False False":
        pytest.skip("torch and torchvision fit together here")
    bare = run("import torchvision")
    assert bare.returncode != 0 and "does not exist" in bare.stderr


def test_without_torchvision_it_does_nothing() -> None:
    hide = "import importlib.util as u\nreal = u.find_spec\n"
    hide += "u.find_spec = lambda name, *rest: None if name == 'torchvision' else real(name, *rest)\n"
    done = run(hide + PROBE)
    assert (done.returncode, done.stdout) == (0, "False False\n"), done.stderr
