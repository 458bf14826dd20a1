"""Attention that fits the memory there is.

`kernels` is also the import name of a Hugging Face package that transformers and diffusers probe, and import from, as
they start. When that distribution is installed and this folder hides it, its submodules and public names stay reachable
here: the real folder is appended to `__path__`, and a name that this package lacks is looked up in the real `__init__`.
Importing this package uses the standard library alone and never raises; our own names are imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._other import FOLDERS, look_up

if TYPE_CHECKING:
    from kernels.choice import attention, explain
    from kernels.linear import linear_attention

__all__ = ["attention", "explain", "linear_attention"]
__version__ = "0.0.0"  # outside every version window that transformers accepts for the other package

_HOMES = {"attention": "kernels.choice", "explain": "kernels.choice", "linear_attention": "kernels.linear"}
__path__.extend(FOLDERS)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    return look_up(name, __name__, __path__)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
