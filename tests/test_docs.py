"""What the documents show is run, and what they link to exists. Doctests are collected by pytest itself."""

from __future__ import annotations

import re
import shlex
import warnings
from pathlib import Path

import pytest

from textile_metric.torchvision_guard import guard_torchvision
from ui.cli import _parser

ROOT = Path(__file__).parents[1]
DOCUMENTS = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
ELSEWHERE = {"docs/api.md", "docs/attention.md"}
"""Their python blocks run elsewhere: tests/ui/api/test_api_document.py and tests/kernels/test_document.py."""
HAS_WEIGHTS = (ROOT / "materials" / "weights" / "model_index.json").is_file()


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / document).read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.skipif(not HAS_WEIGHTS, reason="materials/weights is not there")
@pytest.mark.parametrize("document", [name for name in DOCUMENTS if blocks(name, "python") and name not in ELSEWHERE])
def test_python_runs(document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    guard_torchvision()
    scope: dict[str, object] = {"__name__": "document"}
    with warnings.catch_warnings():
        # diffusers' schedulers hand numpy 2 a tensor
        warnings.filterwarnings("ignore", "__array__ implementation doesn't accept a copy", DeprecationWarning)
        for snippet in blocks(document, "python"):
            exec(compile(snippet, document, "exec"), scope)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_are_accepted(document: str) -> None:
    lines = "".join(blocks(document, "sh")).splitlines()
    for command in [line for line in lines if line.startswith("zellige ")]:
        _parser().parse_args(shlex.split(command, comments=True)[1:])


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    path = ROOT / document
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), f"{document} links to {target}"


def test_contributing_stays_short() -> None:
    assert len((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()) <= 60
